import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import nn

from src.clip.folding import fold

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def resnet():
    torch.manual_seed(0)
    visual = ModifiedResNet(layers=[1, 2, 1, 1], output_dim=24, heads=4, image_size=64, width=8)
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.momentum = None
    visual(IMAGES)  # sets the running statistics from images
    return visual.eval().requires_grad_(False)


def test_a_folded_resnet_has_the_same_features_and_no_batch_norm(resnet):
    plain = resnet(IMAGES)
    fold(resnet)
    assert not [module for module in resnet.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not [weights for weights in resnet.parameters() if weights.requires_grad]
    torch.testing.assert_close(resnet(IMAGES), plain, rtol=1e-4, atol=1e-5)
    assert torch.pdist(plain).min() > 1e-2  # the images can be told apart


def test_what_is_folded_already_stays(resnet):
    fold(resnet)
    before = {name: weights.clone() for name, weights in resnet.state_dict().items()}
    fold(resnet)
    after = resnet.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_transformer_with_quick_gelu_is_folded_once_and_has_the_same_features():
    torch.manual_seed(0)
    visual = VisionTransformer(64, 16, 32, 2, 2, 2.0, act_layer=QuickGELU, output_dim=24)
    visual.eval().requires_grad_(False)
    plain = visual(IMAGES)
    fold(visual)
    assert not [module for module in visual.modules() if isinstance(module, QuickGELU)]
    torch.testing.assert_close(visual(IMAGES), plain, rtol=1e-5, atol=1e-6)
    assert torch.pdist(plain).min() > 1e-2  # the images can be told apart
    folded = {name: weights.clone() for name, weights in visual.state_dict().items()}
    fold(visual)
    assert all(map(torch.equal, folded.values(), visual.state_dict().values()))


def test_a_transformer_with_another_activation_stays():
    visual = VisionTransformer(32, 8, 32, 1, 2, 2.0)
    before = {name: weights.clone() for name, weights in visual.state_dict().items()}
    fold(visual)
    assert all(map(torch.equal, before.values(), visual.state_dict().values()))
