import os

import numpy as np
import pytest
from PIL import Image

from src.data.images import DamagedImageError, ImageFiles, Item

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def loaded(folder, image, name):
    image.save(folder / name)
    return np.asarray(ImageFiles(folder, ["a"], {}).load(Item(name, 0)))


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_greys_of_16_bits_become_the_same_of_8(tmp_path, name):
    fine = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert np.array_equal(loaded(tmp_path, fine, name), np.repeat(RAMP[:, :, None], 3, axis=2))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_known_range_are_refused(tmp_path, dtype):
    with pytest.raises(DamagedImageError, match=r"a\.tif: its values of 32 bits .* convert it"):
        loaded(tmp_path, Image.fromarray(RAMP.astype(dtype)), "a.tif")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "YCbCr"])
def test_every_other_mode_is_read_as_rgb(tmp_path, mode):
    image = Image.fromarray(RAMP).convert("RGB").convert(mode)
    name = "a.jpg" if mode == "YCbCr" else "a.tif"  # Pillow 12.3 reads no such TIFF of its own
    assert loaded(tmp_path, image, name).shape == (16, 16, 3)


def test_only_the_formats_that_are_read_are_opened_whatever_a_file_is_called(tmp_path):
    """Pillow's reader of PostScript would start another program."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    files = ImageFiles(tmp_path, ["x"], {"test": [Item("a.png", 0)]})
    with pytest.raises(DamagedImageError, match="not an image"):
        files.load(Item("a.png", 0))


def test_a_pipe_in_an_image_folder_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    files = ImageFiles(tmp_path, ["x"], {"test": [Item("a.png", 0)]})
    with pytest.raises(DamagedImageError, match="it is no file"):
        files.load(Item("a.png", 0))
