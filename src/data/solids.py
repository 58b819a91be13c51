"""The generated dataset `solids`: point clouds of ten kinds of solid, offline and of any size.

Each cloud is drawn uniformly on the surface of a solid of random proportions, turned by a random
angle about the vertical axis, with a little noise.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from src.data.images import SPLITS, Item
from src.data.point_clouds import PointClouds
from src.errors import UserError, require_integer

_NOISE = 0.01
"""Standard deviation of the noise, for solids that are about 2 high or wide."""
_SEGMENTS = 32
"""How many flat faces replace a full turn of a curved surface."""

Triangles = Float[np.ndarray, "t 3 3"]
"""The surface of a solid: three corners of each triangle, x, y (upwards), z."""


@dataclass(frozen=True)
class Solids(PointClouds):
    """Clouds that are made when they are asked for, keyed `<split>/<kind>/<number>`."""

    seed: int

    def fingerprint(self, items: Sequence[Item]) -> str:
        """Hash what the clouds are made from, and the points of the first cloud of each kind.

        Those change with the code that makes them, without making every cloud on every run.
        """
        digest = hashlib.sha256(f"{self.points}\0{self.seed}\n".encode())
        seen: set[int] = set()
        for item in items:
            digest.update(f"{item.key}\0{item.label}\n".encode())
            if item.label not in seen:
                seen.add(item.label)
                digest.update(self._points(item).tobytes())
        return digest.hexdigest()

    def _points(self, item: Item) -> NDArray[np.float32]:
        split, kind, number = item.key.split("/")
        entropy = (self.seed, SPLITS.index(split), item.label, int(number))
        generator = np.random.default_rng(entropy)
        triangles = make(kind, generator)
        points = sample(triangles, self.points, generator).points
        return (points + generator.normal(0, _NOISE, points.shape)).astype(np.float32)

    def _where(self, item: Item) -> str:
        return f"the generated cloud {item.key}"


def read(per_class: Mapping[str, int], points: int, seed: int, views: int) -> Solids:
    """Describe the dataset; the clouds are made when they are loaded.

    Args:
        per_class: how many clouds of each kind `train`, `val` and `test` have.
        points: how many points each cloud has.
        seed: decides all clouds; each depends only on it, its split, kind and number.
        views: how many depth maps of each cloud, 6 or 10.

    Raises:
        UserError: a number is too small, or no integer.
    """
    require_integer("dataset.points", points, least=2)
    require_integer("dataset.seed", seed, least=0)
    if not isinstance(per_class, Mapping):
        raise UserError(f"dataset.per_class={per_class}: give {{train: 20, val: 10, test: 30}}.")
    for split in SPLITS:
        require_integer(f"dataset.per_class.{split}", per_class[split], least=1)
    names = list(KINDS)
    splits = {
        split: [
            Item(f"{split}/{name}/{number}", label)
            for label, name in enumerate(names)
            for number in range(per_class[split])
        ]
        for split in SPLITS
    }
    return Solids(names, splits, views, points, seed)


class Sample(NamedTuple):
    """Points on a surface, and the unit normals there, of either sign."""

    points: Float[np.ndarray, "p 3"]
    normals: Float[np.ndarray, "p 3"]


def sample(triangles: Triangles, count: int, generator: np.random.Generator) -> Sample:
    """Draw points uniformly on a surface: triangles by their area, then within each."""
    corner, first, second = np.moveaxis(triangles, 1, 0)
    normals = np.cross(first - corner, second - corner)
    double_areas = np.linalg.norm(normals, axis=1)
    rows = generator.choice(len(triangles), count, p=double_areas / double_areas.sum())
    u, v = generator.random((2, count, 1))
    u, v = np.where(
        u + v > 1, (1 - u, 1 - v), (u, v)
    )  # Points in the other half of the parallelogram are mirrored back.
    points = corner[rows] + u * (first - corner)[rows] + v * (second - corner)[rows]
    return Sample(points, (normals / double_areas[:, None])[rows])


def make(kind: str, generator: np.random.Generator) -> Triangles:
    """Make the surface of a solid of random proportions, turned about the vertical axis."""
    triangles = KINDS[kind](generator) * 1.2 ** generator.uniform(-1, 1, 3)
    angle = generator.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    turned: Triangles = triangles @ np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    return turned


def _sphere(generator: np.random.Generator) -> Triangles:
    return _revolution(_arc(-np.pi / 2, np.pi / 2))


def _cube(generator: np.random.Generator) -> Triangles:
    return _revolution([(0, -1), (2**0.5, -1), (2**0.5, 1), (0, 1)], segments=4)


def _cone(generator: np.random.Generator) -> Triangles:
    return _revolution([(0, -1), (generator.uniform(0.7, 1), -1), (0, 1)])


def _cylinder(generator: np.random.Generator) -> Triangles:
    radius = generator.uniform(0.35, 0.55)
    return _revolution([(0, -1), (radius, -1), (radius, 1), (0, 1)])


def _torus(generator: np.random.Generator) -> Triangles:
    radius = generator.uniform(0.2, 0.35)
    return _revolution((1 - radius, 0) + radius * _arc(-np.pi, np.pi))


def _pyramid(generator: np.random.Generator) -> Triangles:
    return _revolution([(0, -1), (2**0.5 * generator.uniform(0.7, 1), -1), (0, 1)], segments=4)


def _dome(generator: np.random.Generator) -> Triangles:
    return _revolution(np.concatenate([[(0, 0)], _arc(0, np.pi / 2)]))


def _cross(generator: np.random.Generator) -> Triangles:
    half = generator.uniform(0.2, 0.35)
    quarter = np.array([(1, -half), (1, half), (half, half)])
    turns = [np.array([(c, s), (-s, c)]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return _extrusion(np.concatenate([quarter @ turn for turn in turns]), half)


def _star(generator: np.random.Generator) -> Triangles:
    angles = np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, generator.uniform(0.35, 0.5), 1)
    outline = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _extrusion(outline, generator.uniform(0.15, 0.3))


def _stairs(generator: np.random.Generator) -> Triangles:
    steps = int(generator.integers(3, 6))
    treads = [(x / steps, (steps - x + up) / steps) for x in range(steps, 0, -1) for up in (0, 1)]
    outline = 2 * np.array([(0, 0), (1, 0), *treads[1:], (0, 1)]) - 1
    return _extrusion(outline, generator.uniform(0.5, 0.8), centre=(-1, -1))


KINDS: dict[str, Callable[[np.random.Generator], Triangles]] = {
    "sphere": _sphere,
    "cube": _cube,
    "cone": _cone,
    "cylinder": _cylinder,
    "torus": _torus,
    "pyramid": _pyramid,
    "dome": _dome,
    "cross": _cross,
    "star": _star,
    "stairs": _stairs,
}
"""The kinds, in the order of their labels."""


def _arc(start: float, end: float) -> Float[np.ndarray, "k 2"]:
    angles = np.linspace(start, end, _SEGMENTS // 2 + 1)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _revolution(
    profile: Sequence[tuple[float, float]] | Float[np.ndarray, "k 2"], segments: int = _SEGMENTS
) -> Triangles:
    """Turn a line of (distance from the axis, height) about the vertical axis.

    Four segments make a square, its sides along x and z.
    """
    radius, height = np.asarray(profile, dtype=float).T
    angles = (np.arange(segments + 1) + 0.5) * 2 * np.pi / segments
    grid = np.stack(
        np.broadcast_arrays(
            radius * np.cos(angles)[:, None], height, radius * np.sin(angles)[:, None]
        ),
        axis=-1,
    )
    corners = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    return _quadrilaterals(*(corner.reshape(-1, 3) for corner in corners))


def _extrusion(
    outline: Float[np.ndarray, "k 2"], half_depth: float, centre: tuple[float, float] = (0, 0)
) -> Triangles:
    """Give depth to an outline (x, y) whose every point is visible from `centre`."""
    front = np.column_stack([outline, np.full(len(outline), half_depth)])
    back = front * (1, 1, -1)
    sides = _quadrilaterals(front, np.roll(front, -1, 0), np.roll(back, -1, 0), back)
    faces = [
        np.stack(
            [np.broadcast_to([*centre, face[0, 2]], face.shape), face, np.roll(face, -1, 0)], 1
        )
        for face in (front, back)
    ]
    return _solid_only(np.concatenate([sides, *faces]))


def _quadrilaterals(
    a: Float[np.ndarray, "q 3"],
    b: Float[np.ndarray, "q 3"],
    c: Float[np.ndarray, "q 3"],
    d: Float[np.ndarray, "q 3"],
) -> Triangles:
    return _solid_only(np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))


def _solid_only(triangles: Triangles) -> Triangles:
    """Drop triangles without area, such as those at the poles of a sphere."""
    corner, first, second = np.moveaxis(triangles, 1, 0)
    area = np.linalg.norm(np.cross(first - corner, second - corner), axis=1)
    kept: Triangles = triangles[area > 1e-12]
    return kept
