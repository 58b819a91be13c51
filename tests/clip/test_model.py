import hashlib
import json
import logging
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from open_clip import factory
from open_clip import pretrained as registry
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from src.clip.crops import Augmentation, Crop
from src.clip.model import FrozenClip
from src.clip.weights import weights_id
from src.data.images import Item
from src.errors import UserError

ROOT = Path(__file__).parents[2]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
TIMM = {"image_size": 64, "timm_model_name": "resnet10t", "timm_pool": "avg"}

MAP = {
    "image_size": 224, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none",
}  # fmt: skip


def config(vision: dict, **others: object) -> dict:
    return deepcopy({"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, **others})


CONFIGS = {
    "small-resnet": config(RESNET),
    "small-resnet-quickgelu": config(RESNET, quick_gelu=True),
    "small-tok": config(VIT),
    "small-avg": config(VIT | {"pool_type": "avg"}),
    "small-oblong": config(VIT | {"image_size": [32, 16]}),
    "small-custom-text": config(VIT, custom_text=True),
    "small-timm": config(TIMM, custom_text=True),
    "small-map": config(MAP, custom_text=True),
    "small-attentional": config(
        VIT | {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}
    ),
    "small-late-norm": config(VIT | {"pool_type": "avg", "final_ln_after_pool": True}),
}
SPATIAL = ["small-resnet", "small-tok", "small-avg", "small-oblong", "small-custom-text"]
OPENAI = ["RN50-quickgelu", "ViT-B-32-quickgelu"]


@pytest.fixture(autouse=True)
def small_architectures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, content in CONFIGS.items():
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, content)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scattered(model: nn.Module) -> nn.Module:
    """Move every weight and statistic off its initial value, so that none hides in a 0 or a 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for name, statistic in model.named_buffers():
            if "running" in name:
                statistic.add_(0.5 * torch.rand(statistic.shape, generator=generator))
    return model


def loaded(architecture: str) -> FrozenClip:
    clip = FrozenClip.load(architecture, None)
    scattered(clip.model)
    return clip


def sharpened(clip: FrozenClip) -> FrozenClip:
    """Make a ResNet's attention prefer some positions; random weights treat all nearly alike."""
    if hasattr(clip.model.visual, "attnpool"):
        clip.model.visual.attnpool.positional_embedding *= 10
        clip.model.visual.attnpool.k_proj.weight *= 10
    return clip


def images_for(clip: FrozenClip, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, *clip.image_size, generator=torch.Generator().manual_seed(2))


def write_folder(folder: Path, architecture: str, dtype: torch.dtype = torch.float32) -> dict:
    """Write a folder for `local-dir:`; return its weights."""
    folder.mkdir(parents=True)
    content = {"model_cfg": CONFIGS[architecture], "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    model = scattered(open_clip.create_model(architecture))
    weights = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return weights


# Image features


def resnet_tokens(visual: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Compute every position's attention pooling, one query and one head at a time."""
    x = visual.stem(images)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    x = x.reshape(*x.shape[:2], -1).mT
    pool = visual.attnpool
    x = torch.cat([x.mean(1, keepdim=True), x], 1) + pool.positional_embedding
    query, key, value = (x @ p.weight.T + p.bias for p in (pool.q_proj, pool.k_proj, pool.v_proj))
    width = x.shape[-1] // pool.num_heads
    heads = []
    for head in range(pool.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].mT / math.sqrt(width)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        heads.append(weights @ value[..., part])
    return torch.cat(heads, -1) @ pool.c_proj.weight.T + pool.c_proj.bias


def vit_tokens(visual: nn.Module, images: torch.Tensor) -> torch.Tensor:
    x = visual.conv1(images).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1)
    x = visual.ln_pre(x + visual.positional_embedding)
    for block in visual.transformer.resblocks:
        x = block(x)
    return visual.ln_post(x) @ visual.proj


@pytest.mark.parametrize("architecture", SPATIAL + OPENAI)
def test_global_is_open_clips_and_spatial_is_the_plain_computation(architecture: str) -> None:
    clip = loaded(architecture) if architecture in SPATIAL else FrozenClip.load(architecture, None)
    sharpened(clip)
    images, visual = images_for(clip), clip.model.visual
    passes = []
    visual.conv1.register_forward_hook(lambda *_: passes.append(1))
    features, spatial = clip.encode_image_spatial(images)
    assert len(passes) == 1
    plain = resnet_tokens if hasattr(visual, "attnpool") else vit_tokens
    with torch.no_grad():
        torch.testing.assert_close(features, clip.model.encode_image(images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(spatial, plain(visual, images)[:, 1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clip.encode_image(images), features, rtol=1e-5, atol=1e-5)
    assert spatial.std(dim=1).mean() > 1e-2  # positions can be told apart


def test_average_pooling_is_the_mean_of_the_spatial_features() -> None:
    clip = loaded("small-avg")
    features, spatial = clip.encode_image_spatial(images_for(clip))
    torch.testing.assert_close(spatial.mean(dim=1), features)


def test_spatial_features_follow_the_rows_of_the_image() -> None:
    clip = loaded("small-tok")
    visual = clip.model.visual
    for block in visual.transformer.resblocks:  # no mixing: each position sees its own patch
        block.attn.out_proj.weight.data.zero_()
    image = images_for(clip, 1)
    changed = image.clone()
    changed[:, :, 8:16, 24:32] = 0  # row 1, column 3 of 4 x 4 patches
    before, after = (clip.encode_image_spatial(each)[1] for each in (image, changed))
    assert (before != after).any(dim=-1).nonzero()[:, 1].tolist() == [1 * 4 + 3]


@pytest.mark.parametrize(
    "architecture",
    [*SPATIAL, "small-resnet-quickgelu", "small-attentional", "small-late-norm", "small-timm"],
)
def test_the_projection_takes_unprojected_features_to_the_global_ones(architecture: str) -> None:
    clip = sharpened(loaded(architecture))
    images = images_for(clip)
    passes = []
    first = next(each for each in clip.model.visual.modules() if isinstance(each, nn.Conv2d))
    first.register_forward_hook(lambda *_: passes.append(1))
    features = clip.encode(images, {"unprojected"})
    assert len(passes) == 1
    weight, bias = clip.projection
    unprojected = features["unprojected"]
    assert unprojected.dtype == weight.dtype == bias.dtype == torch.float32
    assert weight.shape == (unprojected.shape[1], 24)
    expected = clip.encode_image(images)
    torch.testing.assert_close(unprojected @ weight + bias, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features["global"], expected, rtol=1e-4, atol=1e-4)
    assert not (weight.requires_grad or bias.requires_grad or unprojected.requires_grad)
    assert bias.any() == ("resnet" in architecture)


def test_all_features_are_computed_together() -> None:
    clip = loaded("small-tok")
    features = clip.encode(images_for(clip), {"global", "spatial", "unprojected"})
    assert {name: tuple(rows.shape) for name, rows in features.items()} == {
        "global": (2, 24),
        "spatial": (2, 16, 24),
        "unprojected": (2, 32),
    }


def test_a_tower_without_one_linear_layer_at_its_end_is_refused() -> None:
    clip = loaded("small-map")
    for ask in (lambda: clip.projection, lambda: clip.encode(images_for(clip), {"unprojected"})):
        with pytest.raises(UserError, match="small-map does not end in one linear layer"):
            ask()


def test_the_model_is_frozen_and_in_evaluation_mode() -> None:
    clip = FrozenClip.load("small-resnet", None)
    assert not any(module.training for module in clip.model.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    images = images_for(clip).requires_grad_()
    assert not clip.encode_image(images).requires_grad
    assert not clip.encode_image_spatial(images)[1].requires_grad


# Text features


@pytest.mark.parametrize("architecture", ["small-tok", "small-custom-text", "ViT-B-32-quickgelu"])
def test_text_features_are_the_plain_loop(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.clip.text.PROMPTS_PER_PASS", 2)
    clip = FrozenClip.load(architecture, None)
    if architecture.startswith("small"):
        scattered(clip.model)
    prompts = [["a cat.", "a bad photo of the cat."], ["dog"], ["an airport", "art of it", "x"]]
    expected = []
    with torch.no_grad():
        for of_class in prompts:
            mean = torch.zeros(clip.model.visual.output_dim)
            for prompt in of_class:
                feature = clip.model.encode_text(clip.tokenizer([prompt]))[0]
                mean += feature / feature.norm() / len(of_class)
            expected.append(mean / mean.norm())
    features = clip.encode_text(prompts).text
    assert not features.requires_grad
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_a_prompt_that_would_be_truncated_is_refused() -> None:
    clip = loaded("small-tok")
    clip.encode_text([["a " * 14], ["b"]])  # 16 tokens with the start and the end
    with pytest.raises(UserError, match=r"a a'? has 17 tokens and small-tok reads 16"):
        clip.encode_text([[("a " * 15).strip()], ["b"]])


def test_words_without_an_embedding_are_refused_by_name() -> None:
    clip = loaded("small-custom-text")
    embedding = clip.model.text.token_embedding.weight
    blank = torch.ones(len(embedding), dtype=torch.bool)
    blank[clip.tokenizer.encode('a photo of the digit: "seven".')] = False
    blank[clip.tokenizer.encode(".")] = False
    embedding[blank] = 0
    clip.encode_text([['a photo of the digit: "seven".']])
    with pytest.raises(UserError, match="does not know") as raised:
        clip.encode_text([["seven"], ["a photo of the Zebra."], ["aardvark"], ["a Aardvark."]])
    assert "word(s) zebra, aardvark (as in 'a photo of the Zebra.', 'aardvark')" in str(
        raised.value
    )


def test_classes_that_text_cannot_tell_apart_are_refused() -> None:
    clip = loaded("small-tok")
    equal = clip.encode_text([["a crane"], ["a crane"]]).text  # ImageNet has two
    assert torch.equal(equal[0], equal[1])
    with pytest.raises(UserError, match="cannot tell apart 'a Crane' and 'a crane'"):
        clip.encode_text([["a Crane"], ["a dog"], ["a crane"]])


# Loading


def test_random_weights_are_reproducible_and_do_not_change_the_generator() -> None:
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = FrozenClip.load("RN50-quickgelu", None)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(4)
    second = FrozenClip.load("RN50-quickgelu", None)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert first.logit_scale == pytest.approx(1 / 0.07)
    assert first.image_size == (224, 224)


def test_loading_speaks_once_of_random_weights(caplog: pytest.LogCaptureFixture) -> None:
    FrozenClip.load("small-tok", None)
    messages = [(record.name, record.levelname) for record in caplog.records]
    assert messages == [("src.clip.weights", "WARNING")]
    assert "random weights" in caplog.text
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("architecture", ["small-resnet", "small-custom-text"])
def test_a_local_folder_in_float16_is_computed_in_float32(
    tmp_path: Path, architecture: str
) -> None:
    weights = write_folder(tmp_path / "own", architecture, torch.float16)
    clip = FrozenClip.load(f"local-dir:{tmp_path}/own", None)
    state = clip.model.state_dict()
    assert all(
        torch.equal(state[key], value.to(state[key].dtype)) for key, value in weights.items()
    )
    assert {value.dtype for value in clip.parameters()} == {torch.float32}
    size = clip.image_size
    pixels = clip.preprocess(Image.new("RGB", (300, 200), (255, 0, 0)))
    assert pixels.shape == (3, *size)
    assert pixels[1, 0, 0] == pytest.approx(-0.5 / 0.2613, rel=1e-3)  # the folder's own mean


@pytest.mark.parametrize("kind", ["safetensors", "state_dict", "training", "archive"])
def test_a_checkpoint_file_gives_its_weights_and_one_line_says_how_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    weights = write_folder(tmp_path / "own", "small-resnet")
    path = tmp_path / f"own.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "archive":
        publish_archive(weights, path, monkeypatch, "small-resnet")
    else:
        torch.save({"state_dict": weights, "epoch": 3} if kind == "training" else weights, path)
    state = FrozenClip.load("small-resnet", str(path)).model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    told = [one.getMessage() for one in caplog.records if one.name == "src.clip.weights"]
    if kind == "archive":  # OpenAI's own, known by its checksum
        assert told == []
    else:
        (line,) = told
        assert f"pretrained={path} does not say how its model was made" in line
        assert "OpenAI's preprocessing, and with small-resnet's GELU" in line


def save_archive(weights: dict, path: Path) -> None:
    """Save weights as OpenAI does, in a TorchScript archive."""
    warnings.simplefilter(
        "ignore", FutureWarning
    )  # OpenAI's files are older than torch.jit's deprecation.
    root = nn.Module()
    for key, value in weights.items():
        *parents, name = key.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_buffer(name, value)
    root.register_buffer("input_resolution", torch.tensor(64))
    torch.jit.script(root).save(str(path))


def publish_archive(
    weights: dict, path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    save_archive(weights, path)
    url = f"https://openaipublic/{hashlib.sha256(path.read_bytes()).hexdigest()}/own.pt"
    tag = registry._pcfg(url=url, quick_gelu=architecture.endswith("-quickgelu"))
    monkeypatch.setitem(registry._PRETRAINED, architecture, {"openai": tag})


def test_openais_archive_is_held_to_its_activation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_folder(tmp_path / "own", "small-resnet")
    publish_archive(weights, tmp_path / "own.pt", monkeypatch, "small-resnet-quickgelu")
    published = registry._PRETRAINED["small-resnet-quickgelu"]
    monkeypatch.setitem(registry._PRETRAINED, "small-resnet", published)
    FrozenClip.load("small-resnet-quickgelu", str(tmp_path / "own.pt"))
    with pytest.raises(UserError, match=r"backbone.architecture=small-resnet-quickgelu"):
        FrozenClip.load("small-resnet", str(tmp_path / "own.pt"))


class Exploit:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("touched"),)


def test_files_that_hold_no_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = write_folder(tmp_path / "own", "small-resnet")
    whole = (tmp_path / "own/open_clip_model.safetensors").read_bytes()
    torch.save(weights, tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:100_000])
    (tmp_path / "half.safetensors").write_bytes(whole[:100_000])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("<html>404</html>")
    (tmp_path / "exploit.pt").write_bytes(pickle.dumps({"state_dict": Exploit()}))
    torch.save({"state_dict": Exploit()}, tmp_path / "exploit_zip.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({}, tmp_path / "nothing.pt")
    save_archive(weights, tmp_path / "archive.pt")  # of unknown origin
    files = sorted({*tmp_path.glob("*.pt"), *tmp_path.glob("*.safetensors")})
    assert len(files) == 10
    for path in files:
        if path.name == "whole.pt":
            continue
        with pytest.raises(UserError, match=f"{path} does not hold weights of small-resnet: ") as e:
            FrozenClip.load("small-resnet", str(path))
        assert len(str(e.value)) < 500 + len(str(path))
    assert not (tmp_path / "touched").exists()
    with pytest.raises(UserError, match=r"whole.pt does not hold weights of small-tok"):
        FrozenClip.load("small-tok", str(tmp_path / "whole.pt"))


def test_a_local_folder_must_be_complete_and_needs_no_tag(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    write_folder(folder, "small-tok")
    name = f"local-dir:{folder}"
    with pytest.raises(UserError, match="always loads the weights in its folder"):
        FrozenClip.load(name, "openai")
    (folder / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 8')
    with pytest.raises(UserError, match=r"open_clip_config.json does not describe a model"):
        FrozenClip.load(name, None)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config(VIT | {"pach_size": 8})})
    )
    with pytest.raises(UserError, match="pach_size"):
        FrozenClip.load(name, None)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config(VIT | {"width": 64})})
    )
    with pytest.raises(UserError, match=r"open_clip_model.safetensors does not hold weights"):
        FrozenClip.load(name, None)
    (folder / "open_clip_model.safetensors").unlink()
    for make in (FrozenClip.load, weights_id):
        with pytest.raises(UserError, match=r"must hold open_clip_config.json and"):
            make(name, None)


def test_the_folders_second_name_for_weights_is_read_too(tmp_path: Path) -> None:
    weights = write_folder(tmp_path / "own", "small-tok")
    (tmp_path / "own/open_clip_model.safetensors").rename(tmp_path / "own/model.safetensors")
    clip = FrozenClip.load(f"local-dir:{tmp_path}/own", None)
    assert torch.equal(clip.model.visual.proj, weights["visual.proj"])


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)


def other_gelu_pairs() -> list[tuple[str, str, str]]:
    """List every pair in open_clip's registry whose weights were trained with the other GELU."""
    suffix = "-quickgelu"
    plain = [name for name in registry._PRETRAINED if f"{name}{suffix}" in registry._PRETRAINED]
    pairs = []
    for name in plain:
        for tag, content in registry._PRETRAINED[name].items():
            twin = f"{name}{suffix}"
            pairs.append((name, tag, twin) if content.get("quick_gelu") else (twin, tag, name))
    return pairs


@pytest.mark.usefixtures("no_download")
def test_weights_trained_with_the_other_gelu_are_refused_both_ways() -> None:
    pairs = other_gelu_pairs()
    assert ("RN50", "openai", "RN50-quickgelu") in pairs
    assert ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "ViT-B-32") in pairs
    for architecture, tag, right in pairs:
        with pytest.raises(UserError, match=f"use backbone.architecture={right}\\."):
            FrozenClip.load(architecture, tag)


@pytest.mark.usefixtures("no_download")
def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"backbone.architecture=ViT-B/32\. Near it: .*ViT-B-32"):
        FrozenClip.load("ViT-B/32", "openai")
    with pytest.raises(UserError, match=r"backbone.pretrained=opnai .* has openai, yfcc15m, cc12m"):
        FrozenClip.load("RN50-quickgelu", "opnai")
    with pytest.raises(UserError, match=r"backbone.pretrained=/no/such.pt is neither a file"):
        FrozenClip.load("RN50-quickgelu", "/no/such.pt")


@pytest.mark.parametrize("error", [FileNotFoundError, TimeoutError, RuntimeError])
def test_without_a_network_the_message_says_what_to_fetch(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise error("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(UserError, match="RN50-quickgelu") as raised:
        FrozenClip.load("RN50-quickgelu", "openai")
    address = "huggingface.co/timm/resnet50_clip.openai/resolve/main/open_clip_model.safetensors"
    assert address in str(raised.value)
    assert "backbone.pretrained=/path/to/" in str(raised.value)


def test_a_tag_brings_its_weights_and_its_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_folder(tmp_path / "own", "small-tok")
    tag = registry._slpcfg(hf_hub="someone/small/")
    monkeypatch.setitem(registry._PRETRAINED, "small-tok", {"webli": tag})
    path = tmp_path / "own/open_clip_model.safetensors"
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(path))
    clip = FrozenClip.load("small-tok", "webli")
    assert torch.equal(clip.model.visual.proj, weights["visual.proj"])
    assert clip.preprocess(Image.new("RGB", (9, 9)))[0, 0, 0] == -1  # (0 - 0.5) / 0.5


# Identity of the weights


def test_weights_are_identified_by_their_content(tmp_path: Path) -> None:
    write_folder(tmp_path / "own", "small-tok")
    (tmp_path / "own").rename(tmp_path / "moved")
    write_folder(tmp_path / "own", "small-tok")
    own, moved = (f"local-dir:{tmp_path}/{name}" for name in ("own", "moved"))
    assert weights_id(own, None) == weights_id(moved, None)

    file = tmp_path / "moved/open_clip_model.safetensors"
    of_file = weights_id("small-tok", str(file))
    assert of_file != weights_id("small-avg", str(file))
    weights = load_file(file)
    weights["visual.proj"][0, 0] += 1
    save_file(weights, file)
    assert weights_id("small-tok", str(file)) != of_file
    assert weights_id(moved, None) != weights_id(own, None)

    before = weights_id(own, None)
    (tmp_path / "own/open_clip_config.json").write_text("{}")
    assert weights_id(own, None) != before

    assert weights_id("RN50-quickgelu", "openai") == "RN50-quickgelu/openai"
    assert weights_id("RN50", None) == f"RN50/random-{torch.__version__}"


def test_identifying_weights_does_not_import_open_clip() -> None:
    code = (
        "import sys; from src.clip.weights import weights_id; weights_id('RN50', 'openai');"
        "sys.exit('open_clip' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# The backbones in conf/


OPENAI_BACKBONES = ["rn50", "rn101", "rn50x4", "rn50x16", "vit_b32", "vit_b16", "vit_l14"]


@pytest.mark.parametrize("name", [*OPENAI_BACKBONES, "tiny"])
def test_every_backbone_names_an_architecture_with_the_right_gelu(name: str) -> None:
    backbone = yaml.safe_load((ROOT / f"conf/backbone/{name}.yaml").read_text())
    keys = ["name", "architecture", "pretrained", "licence", "precision", "batch_size"]
    assert list(backbone) == keys
    assert backbone["name"] == "${backbone_name:}"
    assert backbone["precision"] == ("auto" if name in OPENAI_BACKBONES else "32-true")
    if name in OPENAI_BACKBONES:
        gelu = open_clip.get_model_config(backbone["architecture"])["quick_gelu"]
        tag = open_clip.get_pretrained_cfg(backbone["architecture"], backbone["pretrained"])
        assert gelu is True is tag["quick_gelu"]


@pytest.mark.parametrize("place", ["tokenizer_kwargs", "hf_model_config"])
def test_a_local_folder_that_wants_its_own_code_run_is_refused(tmp_path: Path, place: str) -> None:
    write_folder(tmp_path / "own", "small-resnet")
    path = tmp_path / "own/open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"]["text_cfg"][place] = {"list": [{"trust_remote_code": True}]}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"open_clip_config\.json wants trust_remote_code"):
        FrozenClip.load(f"local-dir:{tmp_path}/own", None)


@pytest.mark.parametrize("crop", [None, 1])
@pytest.mark.parametrize("size", [(40, 30), (30, 90), (32, 32), (17, 11)])
def test_pixels_are_normalised_to_the_last_bit_of_open_clips(crop, size):
    clip = FrozenClip.load("local-dir:src/clip/tiny", None)
    augmentation = None if crop is None else Augmentation(2, 0.3, True)
    images = [Image.effect_noise(size, 90 + number).convert("RGB") for number in range(3)]
    keys = [Crop(Item(f"{number}.png", 0), crop) for number in range(3)]
    transform, pixels = clip.transform(augmentation), clip.pixels(augmentation)
    expected = torch.stack([transform(*each) for each in zip(images, keys, strict=True)])
    given = torch.stack([pixels(*each) for each in zip(images, keys, strict=True)])
    assert given.dtype == torch.uint8
    assert torch.equal(clip.normalise(given), expected)
    assert torch.equal(clip.encode(given, ["global"])["global"], clip.encode_image(expected))
    assert transform(images[0], keys[0]).dtype == torch.float32  # what it gives is not changed
