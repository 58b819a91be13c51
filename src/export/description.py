"""What an exported file says of itself, as JSON."""

from typing import Any

from src.classifier.classifier import Classifier

FORMAT = 1
"""The version of the description."""


def describe(classifier: Classifier, precision: str) -> dict[str, Any]:
    """Describe a classifier and how its inputs are prepared."""
    about = classifier.about
    cloud = about.view_weights is not None
    height, width = classifier.clip.image_size
    shape = ["batch", "points", 3] if cloud else ["batch", 3, height, width]
    return {
        "format": FORMAT,
        "method": about.method,
        "class_names": about.class_names,
        "logit_scale": about.logit_scale,
        "temperature": about.temperature,
        "conformal": about.conformal,
        "backbone": about.backbone,
        "weights": about.weights,
        "licence": about.licence,
        "adapted_on": about.adapted_on,
        "precision": precision,
        "input": {
            "name": "points" if cloud else "images",
            "shape": shape,
            "type": "float32",
            "file": "CLOUD.npy" if cloud else "IMAGE",
        },
        "preprocessing": _of_clouds(classifier) if cloud else _of_images(classifier),
    }


def _of_images(classifier: Classifier) -> dict[str, Any]:
    """Describe open_clip's inference transform."""
    clip = classifier.clip
    settings, normalise = clip.model.visual.preprocess_cfg, clip.preprocess.transforms[-1]
    height, width = clip.image_size
    resize = settings["resize_mode"]
    bilinear = settings["interpolation"] == "bilinear"
    # For a window that is not square open_clip resizes bicubically, whatever is asked for.
    other = resize == "shortest" and height != width
    return {
        "kind": "image",
        "mode": settings["mode"],
        "resize": resize,
        "interpolation": "bilinear" if bilinear and not other else "bicubic",
        "crop": None if resize == "squash" else "center",
        "fill": settings["fill_color"] if resize == "longest" else 0,
        "image_size": [height, width],
        "divide_by": 255,
        "mean": [float(value) for value in normalise.mean],
        "std": [float(value) for value in normalise.std],
    }


def _of_clouds(classifier: Classifier) -> dict[str, Any]:
    about = classifier.about
    assert about.view_weights is not None
    return {
        "kind": "point cloud",
        "centre": "mean",
        "radius": 1,
        "points": about.points,
        "views": len(about.view_weights),
    }
