"""FGVC-Aircraft, with its lists of families, manufacturers and boxes."""

from pathlib import Path

from tests.replica.photographs import SPLITS, items, photograph, write


def make(data: Path, per_class: int, size: int, classes: str) -> Path:
    root = data / "fgvc_aircraft"
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, label, number in items(per_class, len(classes)):
        image = f"{label}{number:06d}"
        photograph(root / f"images/{image}.jpg", classes[label], number, size)
        lines[split].append(f"{image} {classes[label]}")
    for level in ("variant", "family", "manufacturer"):
        for split in SPLITS:
            write(root / f"images_{level}_{split}.txt", *lines[split])
        write(root / f"images_{level}_trainval.txt", *lines["train"], *lines["val"])
    for file in ("variants", "families", "manufacturers"):
        write(root / f"{file}.txt", *classes)
    images = [line.split()[0] for some in lines.values() for line in some]
    write(root / "images_box.txt", *(f"{image} 1 1 {size} {size}" for image in images))
    return root
