import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from src.clip.crops import Augmentation, Crop, CropTransform
from src.data.images import Item
from src.errors import UserError

INFERENCE = Compose([Resize(16), CenterCrop(16), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
IMAGE = Image.effect_noise((40, 30), 90).convert("RGB")


def transform(**settings):
    augmentation = Augmentation(
        **{"crops": 3, "min_scale": 0.5, "horizontal_flip": True} | settings
    )
    return CropTransform(INFERENCE, (16, 16), augmentation)


def test_a_crop_depends_only_on_the_image_and_its_number():
    look = transform()
    first = look(IMAGE, Crop(Item("a.jpg", 0), 0))
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert torch.equal(look(IMAGE, Crop(Item("a.jpg", 1), 0)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(look(IMAGE, Crop(Item("a.jpg", 0), 1)), first)
    assert not torch.equal(look(IMAGE, Crop(Item("b.jpg", 0), 0)), first)
    assert first.shape == (3, 16, 16)
    assert first.dtype == torch.float32


def test_a_view_without_a_number_is_clips_own():
    assert torch.equal(transform()(IMAGE, Crop(Item("a.jpg", 0), None)), INFERENCE(IMAGE))
    plain = CropTransform(INFERENCE, (16, 16), None)
    assert torch.equal(plain(IMAGE, Crop(Item("a.jpg", 0), None)), INFERENCE(IMAGE))


def test_whole_images_are_mirrored_by_chance_and_only_on_request():
    square = IMAGE.resize((16, 16))
    crops = [Crop(Item("a.jpg", 0), number) for number in range(20)]
    mirrored = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    kinds = {"plain": INFERENCE(square), "mirrored": INFERENCE(mirrored)}

    def seen(look):
        found = set()
        for crop in crops:
            for kind, expected in kinds.items():
                if torch.allclose(look(square, crop), expected, atol=1e-2):
                    found.add(kind)
        return found

    # A crop of the full area may still have another aspect ratio, but most of twenty do not.
    assert seen(transform(min_scale=1.0)) == {"plain", "mirrored"}
    assert seen(transform(min_scale=1.0, horizontal_flip=False)) == {"plain"}


@pytest.mark.parametrize("settings", [{"crops": 0}, {"min_scale": 0.0}, {"min_scale": 1.1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=r"method\.support"):
        transform(**settings)
