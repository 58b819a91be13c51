"""Faster image towers: operations that are constant at inference are folded into weights."""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

QUICK_GELU_SCALE = 1.702
"""The constant in OpenAI's activation, x · sigmoid(1.702 x)."""


def fold(visual: nn.Module) -> None:
    """Fold what a ResNet or a ViT of OpenAI's, or a FastViT, need not compute apart, in place.

    In evaluation mode a batch normalisation maps each channel by a constant factor and offset,
    which the convolution before can do as well: a third of RN50's layers less. QuickGELU(x) is
    SiLU(1.702 x) / 1.702, and the layers around it can do the factors: one pass, in place, instead
    of three. FastViTs (MobileCLIP's S0 to S4) are trained with parallel convolutions, and timm adds
    them up: S0 runs 1.4 times as fast. Features stay the same up to rounding. Towers of other
    kinds, and what is folded already, are not changed.

    Args:
        visual: the image tower, in evaluation mode, without gradients and in float32: in bfloat16,
            rounding would strike the factors too.
    """
    from open_clip.modified_resnet import Bottleneck, ModifiedResNet
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock
    from timm.models.fastvit import FastVit

    trunk = getattr(visual, "trunk", None)
    if isinstance(trunk, FastVit):
        _fold_fastvit(trunk)
    for module in list(visual.modules()):
        if isinstance(module, ModifiedResNet | Bottleneck):
            for number in (1, 2, 3):
                _fold_batch_norm(module, f"conv{number}", f"bn{number}")
            if getattr(module, "downsample", None) is not None:
                _fold_batch_norm(module.downsample, "0", "1")
        elif isinstance(module, ResidualAttentionBlock) and isinstance(module.mlp.gelu, QuickGELU):
            _fold_quick_gelu(module.mlp)


def _fold_fastvit(trunk: Any) -> None:
    from timm.models import reparameterize_model

    if trunk.stem[0].reparam_conv is None:
        reparameterize_model(trunk, inplace=True)
        trunk.requires_grad_(False)  # The new weights would.


def _fold_batch_norm(parent: nn.Module, convolution: str, normalisation: str) -> None:
    batch_norm = getattr(parent, normalisation)
    if isinstance(batch_norm, nn.BatchNorm2d):
        setattr(parent, convolution, fuse_conv_bn_eval(getattr(parent, convolution), batch_norm))
        setattr(parent, normalisation, nn.Identity())


@torch.no_grad()
def _fold_quick_gelu(mlp: nn.Sequential) -> None:
    """Rewrite `c_proj(QuickGELU(c_fc(x)))` as `c_proj(SiLU(c_fc(x)))` with other weights."""
    before, after = mlp.get_submodule("c_fc"), mlp.get_submodule("c_proj")
    assert isinstance(before, nn.Linear)
    assert isinstance(after, nn.Linear)
    before.weight.mul_(QUICK_GELU_SCALE)
    before.bias.mul_(QUICK_GELU_SCALE)
    after.weight.div_(QUICK_GELU_SCALE)
    mlp.register_module("gelu", nn.SiLU(inplace=True))
