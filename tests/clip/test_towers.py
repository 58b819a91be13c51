"""Every architecture of open_clip, cut down: fewer layers, narrower, on smaller images."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip import factory
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, layer_norm
from torchvision.transforms import Compose

from src.clip.folding import fold
from src.clip.model import FrozenClip
from src.errors import UserError
from tests.cli import calipers, refused, result
from tests.clip.test_model import resnet_tokens, scattered
from tests.replica import dtd

TEXT = {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}
NARROW = {"depth": 2, "embed_dim": 64, "num_heads": 4}
STEM = VitCfg((8, 16, 64), (1, 1, 1), 8, VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6), "1d")
CUT = {
    "vit_base_mci": {"depth": 1, "img_size": 64},
    "vitamin_": NARROW | {"img_size": 64, "embed_cfg": STEM},
    "convnext_": {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
    "swin_": {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4), "img_size": 128},
    "fastvit_mci3": {"layers": (1, 1, 2, 1, 1), "embed_dims": (8, 16, 32, 64, 128)},
    "fastvit_mci4": {"layers": (1, 1, 2, 1, 1), "embed_dims": (8, 16, 32, 64, 128)},
    "fastvit_": {"layers": (1, 1, 2, 1), "embed_dims": (8, 16, 32, 64)},
    "vit_": NARROW,
    "eva": NARROW,
}
"""What timm's models are built with, by the beginning of their names."""

FAMILIES = {
    "fastvit_": "FastViT", "convnext_": "ConvNeXt", "swin_": "Swin", "vitamin_": "ViTamin",
    "eva": "EVA", "vit_pe_core": "PE-Core", "vit_base_mci": "MobileCLIP's ViT",
    "vit_large_patch14_clip": "MobileCLIP's ViT", "vit_medium_patch16_gap": "ViT, mean",
    "vit_relpos": "ViT, token", "vit_": "SigLIP",
}  # fmt: skip
LINEAR = {"ResNet", "ViT", "CLIPA", "CoCa", *FAMILIES.values()} - {"SigLIP"}
"""Those that end in one linear layer."""

MEAN = {"FastViT", "Swin", "ViT, mean"}
"""Those whose pooling is a mean, with nothing but linear layers after it."""

FULL = [
    "RN50", "ViT-B-32", "ViT-L-14-CLIPA", "coca_ViT-B-32", "ViT-B-16-SigLIP2", "PE-Core-B-16",
    "EVA02-B-16", "MobileCLIP2-B", "ViTamin-S", "MobileCLIP2-S0", "convnext_base",
    "swin_base_patch4_window7_224", "vit_medium_patch16_gap_256",
    "vit_relpos_medium_patch16_cls_224",
]  # fmt: skip


def of_prefix(name: str, table: dict[str, Any]) -> Any:
    return next(entry for prefix, entry in table.items() if name.startswith(prefix))


def family_of(config: dict) -> str:
    vision = config["vision_cfg"]
    if isinstance(vision.get("layers"), list):
        return "ResNet"
    if "timm_model_name" in vision:
        return of_prefix(vision["timm_model_name"], FAMILIES)
    if vision.get("final_ln_after_pool"):
        return "CLIPA"
    return "CoCa" if vision.get("attentional_pool") else "ViT"


def small_text(name: str) -> dict:
    """Take an architecture's configuration, with a small text tower."""
    config = open_clip.get_model_config(name)
    assert config is not None
    config["text_cfg"] = TEXT
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] = TEXT
    return config


def cut(name: str) -> dict:
    config = small_text(name)
    vision, config["embed_dim"] = config["vision_cfg"], 24
    if "timm_model_name" in vision:
        kind = vision["timm_model_name"]
        own = of_prefix(kind, CUT).get("img_size")
        vision["image_size"] = own or 4 * reduction_of(kind)
    elif isinstance(vision["layers"], list):
        vision |= {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
    else:
        vision |= {"layers": 2, "width": 32, "head_width": 16, "attn_pooler_heads": 2}
        vision["image_size"] = 4 * vision["patch_size"]
    return config


def reduction_of(kind: str) -> int:
    """Tell how many pixels of a side make one position of a model of timm."""
    if patch := re.search(r"patch(\d+)_(?!window)", kind):
        return int(patch[1])
    reductions = {"vit": 16, "fastvit_mci3": 64, "fastvit_mci4": 64}
    return next((size for name, size in reductions.items() if kind.startswith(name)), 32)


def structures() -> dict[str, list[str]]:
    """Group all architectures by what is left of them; call each group by its first member."""
    groups: dict[str, list[str]] = {}
    for name in open_clip.list_models():
        config = cut(name)
        groups.setdefault(json.dumps([config["vision_cfg"], config["embed_dim"]]), []).append(name)
    return {names[0]: names for names in groups.values()}


STRUCTURES = structures()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict], FrozenClip]:
    def make(name: str, config: dict) -> FrozenClip:
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)
        torch.manual_seed(0)
        return FrozenClip(open_clip.create_model(name), None, Compose([]), name)

    return make


@pytest.fixture
def build_cut(build: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], FrozenClip]:
    whole = timm.create_model

    def smaller(kind: str, **settings: Any) -> nn.Module:
        size = {"img_size": 4 * reduction_of(kind)} if "patch" in kind else {}
        return whole(kind, **settings | size | of_prefix(kind, CUT))

    def make(name: str) -> FrozenClip:
        with monkeypatch.context() as patch:
            patch.setattr(timm, "create_model", smaller)
            clip = build(name, cut(name))
        scattered(clip.model)
        return clip

    return make


# What each family makes of tokens [n, k, w], the ones before those of the positions included


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], layer.weight, layer.bias, layer.eps)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attend [w] to [n, k, w]: [n, w]."""
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (query, key, value))
    weights = ((q * k).sum(-1) / q.shape[-1] ** 0.5).softmax(dim=1)
    return (weights.unsqueeze(-1) * v).sum(dim=1).flatten(1)


def vit(visual: Any, x: Tensor) -> Tensor:
    return norm(visual.ln_post, x[:, 0]) @ visual.proj


def clipa(visual: Any, x: Tensor) -> Tensor:
    return norm(visual.ln_post, (x[:, 1:] if x.shape[1] > 1 else x).mean(1)) @ visual.proj


def coca(visual: Any, x: Tensor) -> Tensor:
    pool = visual.attn_pool
    q, k, v = pool.attn.in_proj_bias.chunk(3)
    query = pool.attn.q_proj_weight @ norm(pool.ln_q, pool.query[0]) + q
    x = norm(pool.ln_k, x)
    keys, values = x @ pool.attn.k_proj_weight.T + k, x @ pool.attn.v_proj_weight.T + v
    pooled = linear(pool.attn.out_proj, attend(query, keys, values, pool.attn.num_heads))
    return norm(visual.ln_post, pooled) @ visual.proj


def attention_head(visual: Any, x: Tensor) -> Tensor:
    pool, head = visual.trunk.attn_pool, visual.trunk.head
    key, value = linear(pool.kv, x).chunk(2, dim=-1)
    x = attend(linear(pool.q, pool.latent[0, 0]), key, value, pool.num_heads)
    x = linear(pool.proj, x)
    x = x + linear(pool.mlp.fc2, pool.mlp.act(linear(pool.mlp.fc1, norm(pool.norm, x))))
    return linear(head, x) if isinstance(head, nn.Linear) else x


def token(visual: Any, x: Tensor) -> Tensor:
    return linear(getattr(visual.head, "proj", visual.trunk.head), x[:, 0])


def mean_norm(visual: Any, x: Tensor) -> Tensor:
    return linear(visual.head.proj, norm(visual.trunk.fc_norm, x.mean(1)))


def mean_linear(visual: Any, x: Tensor) -> Tensor:
    last = visual.head.proj if hasattr(visual.head, "proj") else visual.trunk.head.fc
    return linear(last, x.mean(1))


def convnext(visual: Any, x: Tensor) -> Tensor:
    x = norm(visual.trunk.head.norm, x.mean(1))
    if hasattr(visual.head, "proj"):
        return linear(visual.head.proj, x)
    mlp = visual.head.mlp
    return linear(mlp.fc2, mlp.act(linear(mlp.fc1, x)))


HEADS = {
    "ViT": vit, "CLIPA": clipa, "CoCa": coca, "SigLIP": attention_head, "PE-Core": attention_head,
    "EVA": token, "MobileCLIP's ViT": token, "ViT, token": token, "ViTamin": mean_norm,
    "ViT, mean": mean_linear, "FastViT": mean_linear, "Swin": mean_linear, "ConvNeXt": convnext,
}  # fmt: skip


def tokens_of(visual: Any, images: Tensor) -> tuple[Tensor, int]:
    """Compute the trunk's tokens, and how many of them are none of the positions'."""
    if not hasattr(visual, "trunk"):
        x = visual._embeds(images)
        for block in visual.transformer.resblocks:
            x = block(x)
        return x, 1
    x = visual.trunk.forward_features(images)
    if x.ndim == 4:
        return x.flatten(1, 2) if isinstance(visual.trunk, SwinTransformer) else x.flatten(2).mT, 0
    return x, visual.trunk.num_prefix_tokens


def plain(family: str, visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the global features, and those of one position after the other."""
    if family == "ResNet":
        x = resnet_tokens(visual, images)
        return x[:, 0], x[:, 1:]
    x, prefix = tokens_of(visual, images)
    head = HEADS[family]
    alone = [head(visual, x[:, i : i + 1]) for i in range(prefix, x.shape[1])]
    return head(visual, x), torch.stack(alone, dim=1)


def positions_of(config: dict) -> int:
    vision = config["vision_cfg"]
    kind = vision.get("timm_model_name")
    pixels = reduction_of(kind) if kind else vision.get("patch_size") or 32
    return (vision["image_size"] // pixels) ** 2


def close(found: Tensor, expected: Tensor, relative: float = 1e-5) -> None:
    limit = relative * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=limit)


def check(clip: FrozenClip, config: dict, images: Tensor) -> None:
    family, visual = family_of(config), clip.model.visual
    with torch.no_grad():
        expected = clip.model.encode_image(images, normalize=False)
        whole, positions = plain(family, visual, images)
    features, spatial = clip.encode_image_spatial(images)
    close(clip.encode_image(images), expected)
    close(features, expected)
    close(features, whole)
    assert spatial.shape == (len(images), positions_of(config), expected.shape[1])
    close(spatial, positions)
    mean = family in MEAN or (family == "ViT" and visual.pool_type == "avg")
    if mean:
        close(spatial.mean(dim=1), features)
    if family in LINEAR:
        weight, bias = clip.projection
        close(clip.encode_image_unprojected(images) @ weight + bias, features)
    else:
        with pytest.raises(UserError, match="does not end in one linear layer"):
            clip.encode_image_unprojected(images)


def images_for(clip: FrozenClip) -> Tensor:
    return torch.randn(2, 3, *clip.image_size, generator=torch.Generator().manual_seed(2))


def test_every_architecture_has_its_structure_tested() -> None:
    covered = [name for names in STRUCTURES.values() for name in names]
    assert sorted(covered) == sorted(open_clip.list_models())


@pytest.mark.parametrize("name", STRUCTURES)
def test_features_are_the_plain_computation(name: str, build_cut: Callable) -> None:
    clip = build_cut(name)
    check(clip, cut(name), images_for(clip))
    _, spatial = clip.encode_image_spatial(images_for(clip))
    assert spatial.std(dim=1).mean() > 1e-3 * spatial.abs().max()  # positions can be told apart


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_makes_a_tower_fast_leaves_its_features(name: str, build_cut: Callable) -> None:
    clip = build_cut(name)
    images = images_for(clip)
    expected = clip.encode_image_spatial(images)
    for _ in range(2):  # Some heads' features are computed by a tower that is folded already.
        fold(clip.model.visual)
        clip.to(memory_format=torch.channels_last)
        for found, before in zip(clip.encode_image_spatial(images), expected, strict=True):
            close(found, before, 1e-4)
    assert not any(weights.requires_grad for weights in clip.parameters())
    clip.to(torch.bfloat16)
    for found, before in zip(clip.encode_image_spatial(images.bfloat16()), expected, strict=True):
        assert found.dtype == torch.bfloat16
        assert cosine_similarity(found.float(), before, dim=-1).min() > 0.99


OF_EACH_FAMILY = {family_of(cut(name)): name for name in STRUCTURES}


@pytest.mark.parametrize("name", OF_EACH_FAMILY.values(), ids=OF_EACH_FAMILY)
def test_a_graph_of_each_family_takes_any_number_of_images(name: str, build_cut: Callable) -> None:
    class Spatial(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = build_cut(name)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.clip.encode(images, ["spatial"])["spatial"]

    spatial = Spatial().eval().requires_grad_(False)
    one, *_ = images_for(spatial.clip)
    three = torch.stack([one, one.flip(0), one.flip(1)])
    with torch.no_grad():
        program = torch.export.export(
            spatial, (three[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
        close(program.module()(three), spatial(three), 1e-4)


ODD = {
    "one size only": {
        "image_size": 224, "timm_model_name": "resnet10t", "timm_pool": "abs_attn", "timm_proj": "",
    },
    "twice": {
        "image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1,
        "attentional_pool": "parallel", "attn_pooler_heads": 2, "attn_pooler_queries": 2,
    },
    "one feature an image": {
        "image_size": 64, "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear",
    },
}  # fmt: skip


@pytest.mark.parametrize("reason", ODD)
def test_a_tower_that_has_no_features_of_positions_says_why(reason: str, build: Callable) -> None:
    clip = build("odd", {"embed_dim": 32, "vision_cfg": ODD[reason], "text_cfg": TEXT})
    if reason == "one feature an image":
        trunk = clip.model.visual.trunk
        trunk.forward_features = lambda x: x.new_zeros(len(x), trunk.num_features)
        trunk.forward_head = lambda x, pre_logits: x
    images = images_for(clip)
    with pytest.raises(UserError, match=f"spatial features of odd are not defined: .*{reason}"):
        clip.encode_image_spatial(images)
    if reason == "one size only":
        close(clip.encode_image(images), clip.model.encode_image(images))
        with pytest.raises(UserError, match="odd does not end in one linear layer"):
            _ = clip.projection


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_features_of_a_whole_tower_are_the_plain_computation(name: str, build: Callable) -> None:
    config = small_text(name)
    clip = build(name, config)
    check(clip, config, images_for(clip)[:1])


END_TO_END = [
    "RN50", "ViT-B-32", "ViT-L-14-CLIPA", "coca_ViT-B-32", "ViT-B-16-SigLIP2", "PE-Core-T-16-384",
    "EVA02-B-16", "MobileCLIP2-B", "ViTamin-S", "MobileCLIP2-S0", "convnext_tiny",
    "swin_base_patch4_window7_224",
]  # fmt: skip
WORDS = TEXT | {"context_length": 77, "vocab_size": 49408}


@pytest.mark.slow
@pytest.mark.parametrize("name", END_TO_END)
def test_methods_that_need_positions_run_on_every_family(
    name: str, build: Callable, tmp_path: Path
) -> None:
    own, config = open_clip.get_model_config(name), cut(name)
    assert own is not None
    if "timm_model_name" in own["vision_cfg"]:
        config = small_text(name)
    config["text_cfg"] = WORDS
    if "multimodal_cfg" in own:
        config |= {key: own[key] | WORDS for key in ("text_cfg", "multimodal_cfg")}
    folder = tmp_path / "backbone"
    folder.mkdir()
    save_file(build(name, config).model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    dtd(tmp_path / "data", per_class=2, size=32)
    given = (
        "dataset=dtd", f"backbone.architecture=local-dir:{folder}", "backbone.pretrained=null",
        "backbone.name=own", "backbone.batch_size=4", "logger=none",
    )  # fmt: skip
    few = ("shots=1", "method.support.crops=1", "method.training.epochs=2")
    for method in (("calip",), ("calip_fs", *few), ("plot", *few)):
        done = calipers(tmp_path, f"method={method[0]}", *method[1:], *given)
        if method[0] == "plot" and "multimodal_cfg" in config:
            assert "choose a backbone as OpenAI's" in refused(done)
        else:
            assert done.returncode == 0, done.stderr
            assert 0 <= result(tmp_path)["accuracy"] <= 100
