"""Classifiers as files for other programs: the same answers without Calipers."""

import json
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import open_clip
import pytest
import torch
from open_clip import factory
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from src.classifier.classifier import Classifier, load
from src.classifier.folder import About
from src.clip.model import FrozenClip
from src.clip.weights import weights_id
from src.command_line import run_command
from src.data.images import as_rgb
from src.errors import UserError
from src.export import comparison, description, example, formats, settings, work
from src.export.__main__ import main
from src.files import ROOT
from src.heads.calip import Calip
from src.heads.prolip import ProLip
from src.heads.zero_shot import ZeroShot
from tests import replica
from tests.cli import calipers, jobs, run
from tests.heads.contract import ALONE

FEW = ("zero_shot", "calip", "coop")
REST = tuple(method for method in ALONE if method not in (*FEW, "pointclip"))
REST_OF_CLOUDS = ("calip", "tip_adapter", "coop", "plot", "prolip")
SOLIDS = (
    "dataset=solids", "dataset.points=256", "dataset.per_class={train: 3, val: 1, test: 1}",
)  # fmt: skip


def swept(folder: Path, methods, *arguments) -> dict[str, Path]:
    """Adapt by several methods; give each one's folder."""
    done = calipers(
        folder, "-m", f"method={','.join(methods)}", "shots=2", "++method.training.epochs=3",
        "logger=none", *arguments,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(methods, jobs(folder), strict=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    replica.dtd(folder, per_class=4)
    return folder


@pytest.fixture(scope="module")
def few(data, tmp_path_factory):
    own = ("dataset=dtd", *replica.TINY, f"paths.data={data}")
    return swept(tmp_path_factory.mktemp("few"), FEW, *own)


@pytest.fixture(scope="module")
def rest(data, tmp_path_factory):
    own = ("dataset=dtd", *replica.TINY, f"paths.data={data}")
    return swept(tmp_path_factory.mktemp("rest"), REST, *own)


@pytest.fixture(scope="module")
def pointclip(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("pointclip"), ("pointclip",), *SOLIDS)


@pytest.fixture(scope="module")
def rest_of_clouds(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("rest_of_clouds"), REST_OF_CLOUDS, *SOLIDS)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports a run, once for each format and precision; gives the file."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def made(run_folder: Path, kind: str = "onnx", precision: str = "float32") -> Path:
        name = f"{run_folder.name} '{kind}' \U0001f600 {precision}"
        path = folder / f"{name}{settings.SUFFIXES[kind]}"
        typed = f"model={run_folder}", f"output={path}", f"format={kind}", f"precision={precision}"
        if "-plot-" in run_folder.name:
            export_anew(*typed)
        else:
            export(*typed)
        return path

    return made


@pytest.fixture(scope="module")
def photographs(data) -> list[str]:
    return [str(path) for path in sorted((data / "dtd/images").rglob("*.jpg"))]


@pytest.fixture(scope="module")
def solids(tmp_path_factory) -> list[str]:
    """Write clouds of all proportions, the last four of fewer points than are read."""
    folder, random = tmp_path_factory.mktemp("solids"), np.random.default_rng(0)
    paths = [folder / f"{number}.npy" for number in range(12)]
    for number, path in enumerate(paths):
        size = (400 - 30 * number, 3) if number < 4 else (256 if number < 8 else 128, 3)
        points = random.normal(size=size) * random.uniform(0.1, 9, 3) + 5
        np.save(path, points.astype(np.float32))
    return [str(path) for path in paths]


def export(*arguments) -> None:
    """Export in this process, which saves the imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", *map(str, arguments)])
        run_command(main)


def export_anew(*arguments) -> None:
    """Export in a process without the checks of shapes, through which torch sees no loops."""
    done = run("src.export", *arguments)
    assert done.returncode == 0, done.stderr


def refusal(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as ended:
        export(*arguments)
    assert ended.value.code == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    return message


def answers(path: Path, files: list[str]) -> np.ndarray:
    """Ask an exported file in two batches, as its example does."""
    about, ask = example.load(path)
    inputs = [example.prepare(file, about["preprocessing"])[None] for file in files]
    if about["input"]["name"] == "points":  # clouds in one batch have equally many points
        return np.concatenate([ask(each) for each in inputs])
    return np.concatenate([ask(inputs[0]), ask(np.concatenate(inputs[1:]))])


def assert_same(path: Path, run_folder: Path, files: list[str], atol: float = 1e-4) -> None:
    expected = load(run_folder).predict_proba(files)
    found = answers(path, files)
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.ptp(expected, axis=0).max() > 100 * 1e-6  # images can be told apart


def marked(quick, slow):
    several = [each if isinstance(each, tuple) else (each,) for each in slow]
    return [*quick, *(pytest.param(*each, marks=pytest.mark.slow) for each in several)]


@pytest.mark.parametrize("method", marked(FEW, REST))
def test_a_file_answers_as_the_run_does(request, exported, photographs, method):
    folder = request.getfixturevalue("few" if method in FEW else "rest")[method]
    path = exported(folder)
    assert_same(path, folder, photographs)
    about = example.load(path)[0]
    assert about["method"] == method
    assert about["class_names"] == ["a", "b", "c"]
    assert about["backbone"] == "tiny"
    assert about["adapted_on"]["dataset"] == "dtd"
    assert about["input"]["shape"] == ["batch", 3, 32, 32]


@pytest.mark.parametrize("method", marked([], ["pointclip", *REST_OF_CLOUDS]))
def test_a_file_reads_points(request, exported, solids, method):
    name = "pointclip" if method == "pointclip" else "rest_of_clouds"
    folder = request.getfixturevalue(name)[method]
    path = exported(folder)
    assert_same(path, folder, solids[:8])
    assert answers(path, solids).shape == (len(solids), 10)  # the others have fewer points
    about = example.load(path)[0]
    assert about["input"]["shape"] == ["batch", "points", 3]
    assert about["preprocessing"]["points"] == 256


@pytest.mark.parametrize("method", marked(["coop"], ["zero_shot", "calip"]))
def test_a_program_of_torch_answers_as_the_run_does(few, exported, photographs, method):
    path = exported(few[method], "torch")
    assert_same(path, few[method], photographs)
    assert example.load(path)[0]["method"] == method


@pytest.mark.parametrize(
    ("kind", "precision", "atol"),
    [
        ("onnx", "bfloat16", 5e-2),
        ("torch", "float16", 1e-2),
        pytest.param("onnx", "float16", 1e-3, marks=pytest.mark.slow),
        pytest.param("torch", "bfloat16", 5e-2, marks=pytest.mark.slow),
    ],
)
def test_a_lower_precision_takes_half_the_room(few, exported, photographs, kind, precision, atol):
    path = exported(few["coop"], kind, precision)
    assert_same(path, few["coop"], photographs, atol)
    assert example.load(path)[0]["precision"] == precision
    assert path.stat().st_size < 0.65 * exported(few["coop"], kind).stat().st_size


@pytest.mark.parametrize("kind", settings.SUFFIXES)
def test_nothing_of_the_text_tower_nor_of_this_machine_is_in_a_file(few, exported, kind):
    path = exported(few["coop"], kind)
    if kind == "onnx":
        model = onnx.load(path)
        assert not any(node.metadata_props for node in model.graph.node)
        sizes = [int(np.prod(each.dims)) for each in model.graph.initializer]
    else:
        sizes = [each.numel() for each in torch.export.load(path).state_dict.values()]
    tower = sum(each.numel() for each in load(few["coop"]).clip.model.visual.parameters())
    assert sum(sizes) < tower + 5_000
    content = path.read_bytes()
    for name in (ROOT, "site-packages", path.parent, few["coop"]):
        assert str(name).encode() not in content


@pytest.mark.parametrize("kind", settings.SUFFIXES)
def test_the_example_needs_nothing_of_calipers(few, exported, photographs, kind):
    path = exported(few["coop"], kind)
    others = {"src", "open_clip", "torchvision"}
    assert_example(path, few["coop"], photographs[:3], others)


def test_the_example_reads_points(pointclip, exported, solids):
    path = exported(pointclip["pointclip"])
    assert_example(path, pointclip["pointclip"], solids[:3], {"src"})


def test_images_of_ones_own_are_compared(few, data, tmp_path, capsys):
    export(
        f"model={few['zero_shot']}", f"output={tmp_path}/model.pt2", "format=torch",
        f"images={data}/dtd",
    )  # fmt: skip
    assert f"on {data}/dtd: probabilities differ" in (told := capsys.readouterr().out)
    assert "the class is the same for 36 of 36" in told
    assert f"python {tmp_path}/model_example.py IMAGE" in told


def assert_example(output, run_folder, files, without):
    program = output.with_name(f"{output.stem}_example.py")
    without = without | ({"torch"} if output.suffix == ".onnx" else {"onnxruntime"})
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], "
        f"run_name='__main__'); assert not set({sorted(without)}) & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, program, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    best = [lines[lines.index(file) + 1].split()[-1] for file in files]
    assert best == load(run_folder).predict(files)


SIZES = [(32, 32), (53, 37), (37, 53), (31, 200), (200, 7), (16, 9), (500, 333)]


def drawn(size, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"interpolation": "bilinear"},
        {"size": (24, 40)},
        {"size": (40, 24), "interpolation": "bilinear"},
        {"resize_mode": "squash", "interpolation": "bilinear"},
        {"resize_mode": "squash", "size": (24, 40)},
        {"resize_mode": "longest", "fill_color": 127},
        {"resize_mode": "longest", "size": (24, 40), "interpolation": "bilinear"},
    ],
)
def test_the_example_prepares_images_as_open_clip_does(tmp_path, given):
    cfg = PreprocessCfg(**{"size": 32, **given})
    transform = image_transform_v2(cfg, is_train=False)
    size = (cfg.size, cfg.size) if isinstance(cfg.size, int) else cfg.size
    visual = SimpleNamespace(preprocess_cfg=asdict(cfg))
    model = SimpleNamespace(visual=visual)
    clip = SimpleNamespace(model=model, preprocess=transform, image_size=size)
    how = description._of_images(SimpleNamespace(clip=clip))
    for number, size in enumerate(SIZES):
        mode = ("RGB", "L", "RGBA", "P", "I;16", "CMYK", "1")[number % 7]
        path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
        drawn(size, mode).save(path)
        with Image.open(path) as image:
            expected = transform(as_rgb(image)).numpy()
        found = example.prepare(str(path), json.loads(json.dumps(how)))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
VIT = {"image_size": [32, 16], "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
TIMM = {"image_size": 64, "timm_model_name": "resnet10t", "timm_pool": "avg"}
ARCHITECTURES = {
    "resnet": {"vision_cfg": RESNET, "quick_gelu": True},
    "vit": {"vision_cfg": VIT, "quick_gelu": True},
    "timm": {"vision_cfg": TIMM, "custom_text": True},
}


def random_clip(folder: Path, name: str, monkeypatch) -> str:
    """Write a small model of an architecture with random weights; give its `local-dir:`."""
    config = {"embed_dim": 24, "text_cfg": TEXT, **ARCHITECTURES[name]}
    monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    for module in model.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # some begin as zero, and hide what is before
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.momentum = None  # the pass below sets its statistics
    height, width = np.broadcast_to(model.visual.image_size, 2).tolist()
    model.visual(torch.rand(32, 3, height, width))
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    ("name", "head_class", "kind"),
    marked(
        [("vit", ProLip, "onnx")],
        [
            ("resnet", Calip, "onnx"), ("resnet", ProLip, "torch"),
            ("resnet", Calip, "torch"), ("resnet", ProLip, "onnx"), ("vit", Calip, "onnx"),
            ("vit", Calip, "torch"), ("vit", ProLip, "torch"), ("timm", ZeroShot, "onnx"),
            ("timm", ZeroShot, "torch"),
        ],
    ),
)  # fmt: skip
def test_other_image_towers(tmp_path, monkeypatch, name, head_class, kind):
    architecture = random_clip(tmp_path / "backbone", name, monkeypatch)
    clip = FrozenClip.load(architecture, None)
    inputs = comparison.random_inputs(
        SimpleNamespace(clip=clip, about=SimpleNamespace(view_weights=None)), 8
    )
    names = ["unprojected"] if head_class is ProLip else list(head_class.inputs)
    with torch.no_grad():  # texts that tell the images apart
        text = clip.encode_image(inputs[:3]) - clip.encode_image(inputs).mean(dim=0)
    given = {"text": text, "logit_scale": 20.0}
    own = {"attention_factor": 2.0, "beta2": 1.0, "beta3": 0.3} if head_class is Calip else {}
    if head_class is ProLip:
        given |= dict(zip(("projection", "projection_bias"), clip.projection, strict=True))
    head = head_class(**given, **own)
    method = {Calip: "calip", ProLip: "prolip", ZeroShot: "zero_shot"}[head_class]
    about = About(
        method=method, settings=own, view_weights=None, class_names=["a", "b", "c"], prompts=[],
        logit_scale=20.0, backbone=name, architecture=architecture, pretrained=None,
        weights=weights_id(architecture, None), precision="32-true", inputs=names, adapted_on={},
        temperature=2.0,
    )  # fmt: skip
    classifier = Classifier(about, head, given, clip)
    classifier.save(tmp_path / "classifier")
    with torch.no_grad():
        expected = classifier.probabilities(clip.encode(inputs, names)).numpy()
    assert np.ptp(expected, axis=0).min() > 0.01
    path = (tmp_path / "model").with_suffix(settings.SUFFIXES[kind])
    export(f"model={tmp_path}", f"output={path}", f"format={kind}")
    about, ask = example.load(path)
    found = np.concatenate([ask(inputs[:1].numpy()), ask(inputs[1:].numpy())])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert about["temperature"] == 2.0
    assert about["preprocessing"]["image_size"] == list(clip.image_size)


def wrong(_: Path):
    return lambda inputs: torch.full((len(inputs), 3), 1 / 3)


def not_numbers(_: Path):
    return lambda inputs: torch.full((len(inputs), 3), torch.nan)


@pytest.mark.parametrize("answer", [wrong, not_numbers])
def test_a_file_that_answers_otherwise_is_not_left(few, tmp_path, monkeypatch, capsys, answer):
    monkeypatch.setitem(formats.FORMATS, "torch", (formats.write_torch, answer))
    typed = (f"model={few['zero_shot']}", f"output={tmp_path}/out/model.pt2", "format=torch")
    message = refusal(capsys, *typed)
    assert "does not answer as the original does, and is not left" in message
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out/model.pt2").write_text("of before")
    refusal(capsys, *typed)
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["of before"]


def compared(precision, *changes):
    """Compare answers for 200 inputs, some of whose probabilities of two classes are changed."""
    expected = torch.tensor([[0.6, 0.4]]).repeat(200, 1)
    expected[0] = torch.tensor([0.50002, 0.49998])
    found = expected.clone()
    for row, change in changes:
        found[row] += torch.tensor([-change, change])
    rows = iter(found)
    inputs = [torch.zeros(150, 1), torch.zeros(50, 1)]
    return comparison.compare(
        expected, inputs, lambda part: torch.stack([next(rows) for _ in part]), precision
    )


def test_what_is_the_same_answer():
    assert "at most 9.0e-05" in compared("float32", (7, 9e-5))
    assert "the same for 200 of 200" in compared("float32", (3, 5e-4), (4, 5e-4))
    for changes in (
        [(3, 2e-3)],  # far
        [(3, 5e-4), (4, 5e-4), (5, 5e-4)],  # more than one in a hundred
        [(0, 4e-5)],  # the other class
        [(199, 0.5)],
    ):
        with pytest.raises(UserError, match="does not answer as the original does"):
            compared("float32", *changes)
    assert "the same for 199 of 200" in compared("float16", (0, 5e-3))


def test_a_method_that_cannot_be_exported_says_why(few, tmp_path, monkeypatch, capsys):
    typed = (f"model={few['zero_shot']}", f"output={tmp_path}/model.onnx")
    forward = ZeroShot.forward

    def deciding(self, features):
        return forward(self, features) if features.sum() > 0 else -forward(self, features)

    monkeypatch.setattr(ZeroShot, "forward", deciding)
    message = refusal(capsys, *typed)
    assert "method=zero_shot cannot be exported: GuardOnDataDependentSymNode" in message
    monkeypatch.setattr(ZeroShot, "reset", lambda _: None)
    message = refusal(capsys, *typed)
    assert "its answers depend on the images that it has seen before" in message
    assert list(tmp_path.iterdir()) == []


def test_what_onnx_cannot_hold_is_refused(few, tmp_path, monkeypatch, capsys):
    typed = (f"model={few['calip']}", f"output={tmp_path}/model.onnx")
    monkeypatch.setattr(formats, "LARGEST", 1_000_000)
    assert "one file holds 2 GB: give precision=float16 or format=torch" in refusal(capsys, *typed)
    monkeypatch.undo()

    def in_bfloat16(folder):
        classifier = load(folder)
        classifier.head.bfloat16_attention = True
        return classifier

    monkeypatch.setattr(work, "load", in_bfloat16)
    assert "onnxruntime cannot run the exported file, which is not left" in refusal(capsys, *typed)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(few, tmp_path, monkeypatch, capsys):
    found = settings.find_spec
    monkeypatch.setattr(settings, "find_spec", lambda name: None if "x" in name else found(name))
    message = refusal(capsys, f"model={few['zero_shot']}", f"output={tmp_path}/model.onnx")
    assert 'onnx, onnxruntime, onnxscript: pip install "calipers[export]"' in message


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["model=/nowhere"], "model=/nowhere is no folder"),
        (["model=src"], "is missing"),
        ([], "model=... is missing"),
        (["model={run}", "output="], "output=... is missing"),
        (["model={run}", "output=model.pt2"], "output=model.pt2: with format=onnx"),
        (["model={run}", "format=torch"], "give the name of a file that ends in .pt2"),
        (["model={run}", "format=tflite"], "format=tflite: give one of onnx, torch"),
        (["model={run}", "precision=int8"], "precision=int8: give one of float32, float16"),
        (["model={run}", "images=/nowhere"], "images=/nowhere is no folder"),
        (["model={run}", "images=conf"], "images=conf: there is no"),
        (["modle={run}"], "Did you mean model=...?"),
    ],
)
def test_a_mistake_ends_in_one_message(few, tmp_path, capsys, typed, message):
    words = [one.format(run=few["zero_shot"]) for one in typed]
    if not any(one.startswith("output") for one in words):
        words.append(f"output={tmp_path}/model.onnx")
    assert message in refusal(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_settings(capsys):
    with pytest.raises(SystemExit) as ended:
        export("--help")
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "python -m src.export" in told
    assert all(f"    {name}: " in told for name in settings.Settings.__annotations__)
