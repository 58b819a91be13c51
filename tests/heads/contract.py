"""What every head must do. A new method's head is checked from its YAML, without further code."""

import json
from collections.abc import Sequence

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import nn

from src.config import method_yaml
from src.files import CONFIG_DIR
from src.heads.base import Head, Searchable, answers_alone, check, check_built
from src.heads.support import Support
from src.heads.zero_shot import ZeroShot

METHODS = sorted(path.stem for path in (CONFIG_DIR / "method").glob("*.yaml"))
ALONE = [
    method for method in METHODS if answers_alone(get_class(method_yaml(method).head["_target_"]))
]
"""Those that answer for an image by itself, and so leave a classifier."""
CLASSES, WIDTH, POSITIONS, VIEWS, CROPS, SHOTS, IMAGES = 3, 8, 4, 6, 2, 2, 5
NAMES = ["a", "b", "c"]


class TextTower(nn.Module):
    """Stands for the frozen text tower."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH), requires_grad=False)

    def embed(self, class_names, n_context):
        length = n_context + 3
        generator = torch.Generator().manual_seed(7)
        embeddings = torch.randn(len(class_names), length, WIDTH, generator=generator)
        embeddings[:, 0] = embeddings[0, 0].clone()
        return embeddings, torch.full((len(class_names),), length - 1)

    def embed_words(self, words):
        return torch.full((len(words.split()), WIDTH), 0.1)

    def forward(self, prefix, suffixes, ends):
        if prefix.dim() == 3:
            return torch.stack([self(one, suffixes, ends) for one in prefix])
        whole = torch.cat([prefix.expand(len(ends), -1, -1), suffixes], dim=1)
        return whole.cumsum(dim=1).sin().sum(dim=1) @ self.weight


def given():
    """Return everything that a head may be built with, by name."""
    text = torch.randn(CLASSES, WIDTH)
    return {
        "text": text,
        "raw_text": 10 * text,
        "prompt_text": 10 * torch.cat([text, text + 0.1]),
        "prompt_label": torch.arange(CLASSES).repeat(2),
        "projection": torch.randn(2 * WIDTH, WIDTH),
        "projection_bias": torch.randn(WIDTH),
        "logit_scale": 20.0,
        "class_names": NAMES,
        "text_tower": TextTower(),
        "n_views": VIEWS,
    }


def features(head_class, *leading):
    """Draw what `forward` takes, for `leading` dimensions of images."""
    views = (VIEWS,) if head_class.depth_maps == "joint" else ()
    shapes = {
        "global": (*views, WIDTH),
        "spatial": (*views, POSITIONS, WIDTH),
        "unprojected": (*views, 2 * WIDTH),
        "crops": (CROPS, WIDTH),
    }
    return {name: torch.randn(*leading, *shapes[name]) for name in head_class.inputs}


def settings_of(node):
    """Read a head's settings, with fewer updates for those that make many."""
    settings = OmegaConf.to_container(node, resolve=True)
    del settings["_target_"]
    return settings | ({"updates": 60} if "updates" in settings else {})


def build(node, seed=0):
    """Build the head of a method's YAML on few random features, and show it a support set."""
    settings = settings_of(node)
    head_class = get_class(node["_target_"])
    check(head_class, settings)
    torch.manual_seed(0)
    everything = given()
    support = Support(
        features(head_class, CROPS, CLASSES * SHOTS), torch.arange(CLASSES).repeat(SHOTS)
    )
    torch.manual_seed(seed)
    head = head_class(**{name: everything[name] for name in head_class.given}, **settings)
    check_built(head)
    head.prepare(support)
    return head


def logits(head, images):
    head.reset()
    with torch.no_grad():
        return head(*images)


def check_head(node, search=None):
    """Check the head of `method.head`, a node of a method's configuration, and of its search."""
    head = build(node)
    images = list(features(type(head), IMAGES).values())
    label = torch.arange(IMAGES) % CLASSES
    views = (VIEWS,) if head.depth_maps == "joint" else ()

    head.eval()
    first = logits(head, images)
    assert first.shape == (IMAGES, *views, CLASSES)
    assert first.dtype == torch.float32
    assert first.isfinite().all()

    assert torch.equal(logits(head, images), first), "an evaluation depends on the one before it"

    chosen = head.chosen()
    assert json.loads(json.dumps(chosen)) == chosen
    for name in head.searched:
        head.choose({name: 2 * chosen[name]})
        assert head.chosen() == chosen | {name: 2 * chosen[name]}
        head.choose({name: chosen[name]})
    torch.testing.assert_close(logits(head, images), first)

    if isinstance(head, Searchable):
        *outer, inner = [head.chosen()[axis.setting] for axis in axes_of(search)]
        points = [tuple(outer)] if len(outer) > 1 else outer or [1.0]
        (line,) = head.lines(points, *images)
        torch.testing.assert_close(line[0] + inner * line[1], first, atol=1e-4, rtol=1e-4)

    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    head.train()
    output = head(*images)
    loss = head.loss(output.mean(dim=1) if views else output, label)
    assert loss.shape == ()
    assert loss.isfinite()
    if parameters:
        loss.backward()
        assert any(p.grad is not None and p.grad.any() for p in parameters)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
    head.eval()
    for name in head.frozen:
        assert not any(key.startswith(name) for key in head.state_dict())

    check_other_classes(head, node, images)

    again = build(node, seed=1).eval()
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(logits(again, images), logits(head, images))

    last = logits(head, images)
    head.fold()
    torch.testing.assert_close(logits(head, images), last)


def axes_of(search):
    """List the axes of a search: the outer ones, if there are any, and the inner one."""
    outer = search.get("outer", [])
    return [*(outer if isinstance(outer, Sequence) else [outer]), search.inner]


def check_other_classes(head, node, images):
    """Check that what a head learned reaches other classes, or that they get zero-shot CLIP."""
    settings = settings_of(node) | head.chosen()
    torch.manual_seed(0)
    everything = given()
    support = Support(
        features(type(head), CROPS, CLASSES * SHOTS), torch.arange(CLASSES).repeat(SHOTS)
    )
    if head.carries_over:  # to its own classes, it is the same classifier
        other = head.for_classes(everything, settings, support)
        torch.testing.assert_close(logits(other, images), logits(head, images))
    turned = everything | {
        name: everything[name].flip(0) for name in ("text", "raw_text", "prompt_label")
    }
    other = head.for_classes(turned | {"class_names": NAMES[::-1]}, settings, support)
    found = logits(other, images[: len(other.inputs)])
    assert found.shape == logits(head, images).shape
    if not head.carries_over and type(head).for_classes is Head.for_classes:
        expected = ZeroShot(turned["text"], turned["logit_scale"])(images[0])
        torch.testing.assert_close(found, expected)
