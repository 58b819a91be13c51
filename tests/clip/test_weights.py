"""Files as weights: layouts that are read, and how images are prepared for them."""

import json
import logging
import pickle
import re
from argparse import Namespace
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from omegaconf import open_dict
from open_clip import factory
from open_clip import pretrained as registry
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from src.clip.model import FrozenClip
from src.clip.preprocessing import in_words, marked, resolved
from src.clip.weights import load_model, preprocessing_of, weights_id
from src.config import compose, config_hash
from src.errors import UserError
from src.validation import validate
from tests.cli import calipers, refusal, result

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
SMALL: dict[str, Any] = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT}
CONFIGS = {"small": SMALL, "small-custom": SMALL | {"custom_text": True}}


@pytest.fixture(autouse=True)
def small_architectures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, content in CONFIGS.items():
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, deepcopy(content))
    yield


def weights() -> dict[str, Tensor]:
    """Random weights of `small`, none at its initial value."""
    torch.manual_seed(0)
    state = open_clip.create_model("small").state_dict()
    return {key: value + 0.1 * torch.randn_like(value) for key, value in state.items()}


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write weights in the layout of transformers' CLIPModel, name by name."""
    found = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(16)[None],
    }
    for part in ("weight", "bias"):
        found[f"vision_model.pre_layrnorm.{part}"] = state[f"visual.ln_pre.{part}"]
        found[f"vision_model.post_layernorm.{part}"] = state[f"visual.ln_post.{part}"]
        found[f"text_model.final_layer_norm.{part}"] = state[f"ln_final.{part}"]
        for theirs, ours in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
            for layer in range(2):
                to, of = f"{theirs}.encoder.layers.{layer}", f"{ours}.resblocks.{layer}"
                rows = state[f"{of}.attn.in_proj_{part}"]
                for number, letter in enumerate("qkv"):
                    one = rows[32 * number : 32 * (number + 1)].contiguous()
                    found[f"{to}.self_attn.{letter}_proj.{part}"] = one
                found[f"{to}.self_attn.out_proj.{part}"] = state[f"{of}.attn.out_proj.{part}"]
                found[f"{to}.layer_norm1.{part}"] = state[f"{of}.ln_1.{part}"]
                found[f"{to}.layer_norm2.{part}"] = state[f"{of}.ln_2.{part}"]
                found[f"{to}.mlp.fc1.{part}"] = state[f"{of}.mlp.c_fc.{part}"]
                found[f"{to}.mlp.fc2.{part}"] = state[f"{of}.mlp.c_proj.{part}"]
    return found


def assert_holds(path: Path, state: dict[str, Tensor], architecture: str = "small") -> None:
    model, *_ = load_model(architecture, str(path))
    found = {key.removeprefix("text."): value for key, value in model.state_dict().items()}
    assert found.keys() >= state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())


# Layouts


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_clip_of_transformers_is_read(tmp_path: Path, name: str, architecture: str) -> None:
    state = weights()
    theirs = as_transformers(state)
    assert len(theirs) == len(state) + 2 * 2 * 2 * 2 + 2  # three of each in_proj, and positions
    path = tmp_path / name
    save_file(theirs, path) if path.suffix == ".safetensors" else torch.save(theirs, path)
    assert_holds(path, state, architecture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("siglip", "it is SigLIP in the layout of transformers"),
        ("vision alone", "it is another model than CLIP in the layout of transformers"),
        ("wider", "size mismatch"),
    ],
)
def test_other_models_of_transformers_are_refused_with_the_reason(
    tmp_path: Path, change: str, message: str
) -> None:
    state = as_transformers(weights())
    if change == "siglip":
        del state["visual_projection.weight"], state["text_projection.weight"]
        state["vision_model.head.probe"] = torch.zeros(1, 1, 32)
    elif change == "vision alone":
        state = {key: value for key, value in state.items() if not key.startswith("text_")}
    else:
        state["visual_projection.weight"] = torch.zeros(48, 32)
    save_file(state, tmp_path / "model.safetensors")
    expected = rf"model\.safetensors does not hold weights of small: .*{message}"
    with pytest.raises(UserError, match=expected):
        load_model("small", str(tmp_path / "model.safetensors"))


class Wrapper(nn.Module):
    """As DistributedDataParallel and torch.compile, which name what they wrap."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        self.add_module(name, model)


@pytest.mark.parametrize("wrappers", [(), ("module",), ("module", "_orig_mod")])
def test_a_checkpoint_of_a_training_is_read(tmp_path: Path, wrappers: tuple[str, ...]) -> None:
    """What open_clip's training writes, with the states of its optimizer and its scaler."""
    model = open_clip.create_model("small")
    model.load_state_dict(weights())
    wrapped: nn.Module = model
    for name in reversed(wrappers):
        wrapped = Wrapper(name, wrapped)
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-4, betas=(0.9, 0.98))
    images, tokens = torch.randn(2, 3, 32, 32), torch.randint(49408, (2, 16))
    (model.encode_image(images) @ model.encode_text(tokens).T).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "name": "2026_01_01-model_small-lr_0.0001",
        "state_dict": wrapped.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
    }
    torch.save(content, tmp_path / "epoch_3.pt")
    assert_holds(tmp_path / "epoch_3.pt", model.state_dict())


def test_weights_of_the_old_format_of_torch_are_read(tmp_path: Path) -> None:
    state = weights()
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_holds(tmp_path / "old.pt", state)


class Exploit:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("touched"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "there are no weights in it"),
        ({"state_dict": {"a": 3}}, "'a' is no tensor in it"),
        ([torch.zeros(3)], "there are no weights in it"),
        (
            {"state_dict": {"a": torch.zeros(2)}, "args": Namespace(lr=1)},
            "argparse.Namespace, which is not",
        ),
        ({"state_dict": Exploit()}, "it holds more than weights, "),
        ({"visual.proj": Exploit()}, "it holds more than weights, "),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_what_holds_more_or_less_than_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str, old: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "file.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError, match=rf"file\.pt does not hold weights of small: .*({message})"):
        load_model("small", "file.pt")
    assert not Path("touched").exists()


def test_a_plain_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.bin").write_bytes(pickle.dumps({"vision_model.a": Exploit()}))
    with pytest.raises(UserError, match=r"file\.bin does not hold weights of small"):
        load_model("small", "file.bin")
    assert not Path("touched").exists()


# Preprocessing


def normalised(clip: FrozenClip) -> list[float]:
    return [round(float(one), 3) for one in clip.preprocess(Image.new("RGB", (9, 9)))[:, 0, 0]]


def load(architecture: str, pretrained: str | None, preprocessing: Any) -> FrozenClip:
    return FrozenClip(*load_model(architecture, pretrained, preprocessing), architecture)


@pytest.fixture
def file(tmp_path: Path) -> str:
    save_file(weights(), tmp_path / "own.safetensors")
    return str(tmp_path / "own.safetensors")


def test_a_file_is_prepared_as_is_asked(file: str) -> None:
    openais = [-1.792, -1.752, -1.48]
    assert normalised(load("small", file, None)) == openais
    assert normalised(load("small", file, "openai")) == openais
    assert normalised(load("small", file, "laion2b_s32b_b82k")) == [-1] * 3  # of ViT-L-14
    clip = load("small", file, {"mean": [0.5, 0, 0], "std": [1, 1, 1]})
    assert normalised(clip) == [-0.5, 0, 0]
    picture = Image.new("RGB", (64, 32))
    picture.paste((255, 255, 255), (0, 0, 8, 32))  # a centred crop loses it
    for mode, expected in (("shortest", -1), ("squash", 1)):
        settings = {"resize_mode": mode, "mean": [0.5] * 3, "std": [0.5] * 3}
        settings["interpolation"] = "bilinear"
        pixels = load("small", file, settings).preprocess(picture)
        assert pixels.shape == (3, 32, 32)
        assert round(float(pixels[0, 16, 0])) == expected


def test_a_tags_own_preprocessing_can_be_overridden(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._PRETRAINED, "small", {"web": registry._slpcfg(hf_hub="a/b/")})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: file)
    assert normalised(load("small", "web", None)) == [-1] * 3
    assert normalised(load("small", "web", {"mean": [0.0, 0.0, 0.0]})) == [0] * 3
    assert normalised(load("small", "web", "openai")) != [-1] * 3


def test_a_folders_own_preprocessing_can_be_overridden(file: str) -> None:
    folder = Path(file).parent
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": SMALL, "preprocess_cfg": {"mean": [0.0, 0.0, 0.0]}})
    )
    Path(file).rename(folder / "model.safetensors")
    assert normalised(load(f"local-dir:{folder}", None, None)) == [0] * 3
    assert normalised(load(f"local-dir:{folder}", None, "openai")) == [-1.792, -1.752, -1.48]


def test_tags_are_looked_up_at_their_architecture_first() -> None:
    mobile = resolved("dfndr2b", "MobileCLIP2-B")
    assert (mobile["mean"], mobile["std"]) == ([0, 0, 0], [1, 1, 1])
    assert resolved("dfndr2b", "MobileCLIP2-L-14")["interpolation"] == "bicubic"
    assert resolved("openai", "ViT-B-32-quickgelu") == resolved("openai", "local-dir:x")
    assert resolved(None, "ViT-B-32") == {}
    with pytest.raises(UserError, match=r"dfndr2b is not the same for all architectures"):
        resolved("dfndr2b", "local-dir:x")
    with pytest.raises(UserError, match=r"backbone\.preprocessing=opnai is no tag"):
        resolved("opnai", "ViT-B-32")


def test_one_line_says_how_a_bare_file_is_read(file: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "src.clip.weights")
    load("small", file, "laion2b_s32b_b82k")
    (line,) = caplog.records
    assert line.levelname == "INFO"  # it was asked for
    told = line.getMessage()
    assert "with the preprocessing laion2b_s32b_b82k, and with small's GELU" in told


def test_the_line_names_the_tags_of_the_architecture_that_are_prepared_otherwise(
    file: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tags = {"web": registry._slpcfg(hf_hub="a/b/"), "openai": registry._pcfg(hf_hub="a/b/")}
    monkeypatch.setitem(registry._PRETRAINED, "small", tags)
    load("small", file, None)
    (line,) = caplog.records
    assert "OpenAI's preprocessing" in line.getMessage()
    assert "(as those of web)." in line.getMessage()


def test_without_a_network_the_way_that_is_named_keeps_the_preprocessing_of_every_tag(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    monkeypatch.setattr("src.clip.weights._build", lambda *_, **__: (None, None))  # takes time
    different = 0
    for model, tag in registry.list_pretrained():
        published = dict(registry.get_pretrained_cfg(model, tag))
        monkeypatch.setitem(registry._PRETRAINED, "small", {tag: published | {"quick_gelu": False}})
        with pytest.raises(UserError, match="cannot download") as raised:
            load_model("small", tag)
        assert "backbone.pretrained=/path/to/that/file" in str(raised.value)
        asked = re.search(r"backbone\.preprocessing=(\S+)\. ", str(raised.value))
        kept = resolved(asked[1] if asked else "openai", model)
        keys = ("mean", "std", "interpolation", "resize_mode")
        assert kept == {key: value_of(published[key]) for key in keys}, (model, tag)
        different += asked is not None
    assert different >= 58


def value_of(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_what_is_prepared_in_another_way_has_another_identity(file: str) -> None:
    plain = weights_id("small", file)
    ids = {plain, weights_id("small", file, "openai"), weights_id("small", file, {"std": [1] * 3})}
    assert len(ids) == 3
    assert all(one.startswith(plain) for one in ids)
    one, other = {"mean": [0.5] * 3, "std": [1.0] * 3}, {"std": [1.0] * 3, "mean": [0.5] * 3}
    assert weights_id("small", file, one) == weights_id("small", file, other)


def test_where_the_preprocessing_comes_from_is_named(file: str) -> None:
    assert preprocessing_of("small", file, None) == "openai"
    assert preprocessing_of("small", "web", None) == "web"
    assert preprocessing_of("hf-hub:a/b", None, None) == "open_clip_config.json"
    assert preprocessing_of("small", file, {"mean": [0, 0, 0]}) == in_words({"mean": [0, 0, 0]})


# The setting


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("3", "it"),
        ("''", "it"),
        ("[1,2]", "it"),
        ("{}", "it"),
        ("{size: 224}", "size"),
        ("{mean: 0.5}", "mean"),
        ("{mean: [0.5,0.5]}", "mean"),
        ("{mean: [a,b,c]}", "mean"),
        ("{std: [0.5,0.5,0]}", "std"),
        ("{std: [0.5,0.5,nan]}", "std"),
        ("{interpolation: lanczos}", "interpolation"),
        ("{resize_mode: stretch}", "resize_mode"),
    ],
)
def test_settings_of_no_known_form_are_refused(given: str, what: str) -> None:
    cfg = compose(["dataset=digits", "paths.output=o", f"backbone.preprocessing={given}"])
    with pytest.raises(UserError, match=rf"preprocessing=.*: {what} is wrong\. Give a tag of"):
        validate(cfg)


def test_an_unknown_tag_is_refused(tmp_path: Path) -> None:
    message = refusal(
        tmp_path, "dataset=digits", "method=zero_shot", "backbone.preprocessing=opnai"
    )
    assert "backbone.preprocessing=opnai is no tag of open_clip" in message


def test_the_setting_changes_hash_and_name_only_where_it_is_given() -> None:
    plain = compose(["dataset=digits", "paths.output=o"])
    without = deepcopy(plain)
    with open_dict(without):
        del without.backbone["preprocessing"]  # as in runs from before it
    assert config_hash(plain) == config_hash(without)
    assert plain.backbone.name == "tiny"
    names, hashes = [], set()
    for given in ("openai", "{mean: [0.5,0.5,0.5]}", "{mean: [0.4,0.5,0.5]}"):
        cfg = compose(["dataset=digits", "paths.output=o", f"backbone.preprocessing={given}"])
        validate(cfg)
        names.append(cfg.backbone.name)
        hashes.add(config_hash(cfg))
    assert len(hashes | {config_hash(plain)}) == 4
    assert names[0] == "local-tiny-openai"
    assert all(re.fullmatch(r"local-tiny-prepared_[0-9a-f]{8}", name) for name in names[1:])
    assert names[1] != names[2]
    with pytest.raises(UserError, match=r"or for another backbone\.preprocessing"):
        validate(
            compose([
                "dataset=digits", "paths.output=o", "backbone.preprocessing=openai",
                "backbone.name=tiny",
            ])
        )  # fmt: skip


def test_two_preprocessings_never_share_features(tmp_path: Path) -> None:
    common = ["dataset=digits", "method=zero_shot", "logger=none", "backbone.name=mine"]
    records = []
    for given in ("null", "{mean: [0.1,0.1,0.1], std: [2,2,2]}"):
        done = calipers(tmp_path, *common, f"backbone.preprocessing={given}")
        assert done.returncode == 0, done.stderr
        records.append(result(tmp_path))
    assert len({record["weights"] for record in records}) == 2
    assert {record["backbone"] for record in records} == {"mine"}
    setting = {"mean": [0.1] * 3, "std": [2] * 3}
    assert records[1]["weights"] == marked(records[0]["weights"], setting)
    manifests = [
        json.loads(path.read_text()) for path in tmp_path.glob("features/*/*/manifest.json")
    ]
    images = [one for one in manifests if one["key"]["split"] != "text"]
    texts = [one for one in manifests if one["key"]["split"] == "text"]
    assert "prepared" not in texts[0]["key"]
    assert len(texts) == 1  # texts are read in one way
    prepared = {json.dumps(one["key"].get("prepared")) for one in images}
    assert prepared == {"null", json.dumps(setting)}
    told = {one["made_by"]["preprocessing"] for one in images}
    assert told == {"open_clip_config.json", in_words(setting)}
