"""Shaded renderings of solids: what `tiny` learns their names from.

A rendering shows a surface lit by a lamp, from any side, before a plain or shaded ground. It has
nothing of a depth map: brightness is the angle to the light, and only the near side is seen.
"""

import numpy as np
from jaxtyping import Float

from src.data.solids import Triangles, sample

_POINTS = 8_000
_COVERED = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
"""The 2 × 2 pixels, at twice the final size, that each point covers, so that few are missed."""


def shade(
    triangles: Triangles, size: int, generator: np.random.Generator
) -> Float[np.ndarray, "{size} {size} 3"]:
    """Photograph one solid with a random camera, lamp, colour and ground.

    Args:
        triangles: the solid's surface, around the origin.
        size: height and width of the image, in pixels.
        generator: makes all random choices.

    Returns:
        RGB, 0 to 1.
    """
    points, normals = sample(triangles, _POINTS, generator)
    camera = _camera(generator)
    centred = points - (points.max(axis=0) + points.min(axis=0)) / 2
    seen = centred / np.linalg.norm(centred, axis=1).max() @ camera.T
    normals = normals @ camera.T
    distance = generator.uniform(2, 5)
    depth = distance - seen[:, 2]
    canvas = 2 * size
    zoom = generator.uniform(0.7, 1.0) * distance * canvas / 2
    shift = canvas / 2 * (1 + generator.uniform(-0.1, 0.1, 2))
    places = (zoom * seen[:, 1::-1] / depth[:, None] * (-1, 1) + shift).astype(int)

    # The side of a surface that is turned towards the camera is the one that is lit.
    facing = np.where((normals * (seen - (0, 0, distance))).sum(axis=1) > 0, -1, 1)
    lamp = generator.normal((0, 0.7, 0.7))
    lambert = (facing * (normals @ (lamp / np.linalg.norm(lamp)))).clip(0)
    ambient = generator.uniform(0.1, 0.4)
    light = ambient + (1 - ambient) * lambert

    # Where several points fall into a pixel, the last one written remains: the nearest.
    far_to_near = np.argsort(-depth, kind="stable")
    rows, columns = (places[far_to_near, None] + _COVERED).clip(0, canvas - 1).reshape(-1, 2).T
    nearest = np.full((canvas, canvas), -1)
    nearest[rows, columns] = far_to_near.repeat(len(_COVERED))
    colour = generator.uniform(0.6, 1) * (1 - generator.uniform(0, 0.4, 3))
    image = _ground(canvas, generator)
    image[nearest >= 0] = light[nearest[nearest >= 0], None] * colour
    small = image.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))
    return (small + generator.normal(0, 0.02, small.shape)).clip(0, 1)


def _camera(generator: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Turn the scene so that the camera, on the z axis, looks at it from a random height."""
    height = generator.uniform(-np.pi / 2, np.pi / 2)
    cosine, sine = np.cos(height), np.sin(height)
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])


def _ground(canvas: int, generator: np.random.Generator) -> Float[np.ndarray, "c c 3"]:
    """Paint a ground that grows brighter in one direction, or not."""
    brightness, tint = generator.uniform(0, 1), generator.uniform(-0.1, 0.1, 3)
    slope = generator.uniform(-0.15, 0.15, 2)
    ramp = np.linspace(-1, 1, canvas)
    plain = brightness + slope[0] * ramp[:, None] + slope[1] * ramp
    return (plain[:, :, None] + tint).clip(0, 1)
