"""Name the classes of images, or of point clouds, with an exported classifier.

    python THIS_FILE.py IMAGE [IMAGE ...]

Needs numpy, pillow, and onnxruntime (for .onnx) or torch (for .pt2). How an input is prepared
stands in the classifier's file.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FILE = Path(__file__).with_name("classifier.onnx")
TOP = 5

Array = np.ndarray[Any, Any]


def load(path: Path) -> tuple[dict[str, Any], Callable[[Array], Array]]:
    """Return what the file says of itself, and what turns inputs into probabilities."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        about = json.loads(session.get_modelmeta().custom_metadata_map["calipers"])
        return about, lambda inputs: session.run(None, {about["input"]["name"]: inputs})[0]
    import torch

    extra = {"calipers": ""}
    program: Any = torch.export.load(path, extra_files=extra).module()
    return json.loads(extra["calipers"]), lambda inputs: program(torch.from_numpy(inputs)).numpy()


def prepare(path: str, how: dict[str, Any]) -> Array:
    """Make an input, float32, from a file."""
    return cloud(path, how) if how["kind"] == "point cloud" else picture(path, how)


def picture(path: str, how: dict[str, Any]) -> Array:
    """Open, resize, crop and normalise an image: [3, h, w]."""
    image: Any = Image.open(path)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert(how["mode"])
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    image = image.resize(resized(image.width, image.height, how), filters[how["interpolation"]])
    height, width = how["image_size"]
    window = Image.new(how["mode"], (width, height), (how["fill"],) * 3)
    window.paste(image, (-start(image.width, width), -start(image.height, height)))
    pixels = np.asarray(window).astype(np.float32) / np.float32(how["divide_by"])
    pixels = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return pixels.transpose(2, 0, 1)


def resized(width: int, height: int, how: dict[str, Any]) -> tuple[int, int]:
    """Return the width and height that an image is resized to."""
    to_height, to_width = how["image_size"]
    if how["resize"] == "squash":
        return to_width, to_height
    if how["resize"] == "shortest" and to_width == to_height:
        short = min(width, height)
        return int(to_width * width / short), int(to_height * height / short)
    ratios = height / to_height, width / to_width
    ratio = min(ratios) if how["resize"] == "shortest" else max(ratios)
    return round(width / ratio), round(height / ratio)


def start(side: int, window: int) -> int:
    """Return where the window begins on a side of an image: before it, if the side is shorter."""
    return -((window - side) // 2) if window > side else round((side - window) / 2)


def cloud(path: str, how: dict[str, Any]) -> Array:
    """Read, centre and scale the points of an object: [p, 3]."""
    points = np.load(path).astype(np.float32).astype(np.float64)
    points = points - points.mean(axis=0)
    points = points / np.linalg.norm(points, axis=1).max()
    return points[: how["points"]].astype(np.float32)


def main() -> None:
    about, classify = load(FILE)
    for path in sys.argv[1:]:
        (probabilities,) = classify(prepare(path, about["preprocessing"])[None])
        print(path)
        for label in np.argsort(-probabilities)[:TOP]:
            print(f"{100 * probabilities[label]:8.2f} %  {about['class_names'][label]}")


if __name__ == "__main__":
    main()
