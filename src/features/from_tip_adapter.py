"""`python -m src.features.from_tip_adapter`: convert Tip-Adapter's feature cache.

The cache (Zhang et al., ECCV 2022, the authors' release) is a folder with `test_f.pt`, `val_f.pt`
`[n, d]`, `test_l.pt`, `val_l.pt` `[n]`, `keys_Kshots.pt` `[d, K·c]` and `values_Kshots.pt`
`[K·c, c]` one-hot. It holds neither class names nor text features: they come from elsewhere.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from src.command_line import run_command
from src.data.text_files import read_json, readable
from src.errors import UserError
from src.files import replacing, write_json

NAMES = "It must be a JSON list of names."


def main() -> None:
    """Read the command line and convert.

    Raises:
        UserError: a file is missing or malformed, or the output folder exists.
    """
    parser = argparse.ArgumentParser(prog="python -m src.features.from_tip_adapter")
    parser.add_argument("cache", type=Path, help="folder with test_f.pt, test_l.pt, ...")
    parser.add_argument("output", type=Path, help="folder to make, in the public format")
    parser.add_argument(
        "--classes", type=Path, required=True, help="JSON list: the cache's classes"
    )
    parser.add_argument(
        "--text", type=Path, required=True, help="text features [t, d], .npy or .pt"
    )
    parser.add_argument("--text-names", type=Path, help="JSON list: a name per text feature")
    parser.add_argument("--shots", type=int, help="also take the K-shot keys, as the train split")
    parser.add_argument("--logit-scale", type=float, default=100.0, help="default: %(default)s")
    parser.add_argument("--backbone", default="vit_b32", help="name for tables (%(default)s)")
    arguments = parser.parse_args()
    classes = _read_names(arguments.classes)
    text = _read_text(arguments.text)
    names = classes if arguments.text_names is None else _read_names(arguments.text_names)
    if len(names) != len(text) and len(names) == text.shape[1]:
        text = text.T  # as Tip-Adapter's code keeps its `clip_weights`
    if len(names) != len(text):
        raise UserError(
            f"{arguments.text} has {len(text)} text features for {len(names)} names: give "
            "--text-names with one name for each."
        )
    known = {readable(name): row for row, name in enumerate(names)}
    kept = [label for label, name in enumerate(classes) if readable(name) in known]
    if not kept:
        raise UserError(f"{arguments.text_names} names none of the classes of {arguments.classes}.")
    splits = _read_splits(arguments.cache, arguments.shots, len(classes))
    meta = {
        "logit_scale": arguments.logit_scale,
        "backbone": arguments.backbone,
        "origin": f"Tip-Adapter cache {arguments.cache.name}, text features {arguments.text.name}",
    }
    rows = [known[readable(classes[label])] for label in kept]
    _write(arguments.output, [classes[label] for label in kept], meta, text[rows], splits, kept)
    if missing := len(classes) - len(kept):
        print(f"left out {missing} classes that have no text feature")
    print(f"{arguments.output}: {len(kept)} classes, splits {', '.join(splits)}")


def _read_splits(
    cache: Path, shots: int | None, n_classes: int
) -> dict[str, tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]]:
    splits = {}
    if shots is not None:
        keys, values = (_load(cache / f"{kind}_{shots}shots.pt", 2) for kind in ("keys", "values"))
        splits["train"] = keys.T.contiguous(), values.argmax(dim=1)
    if (cache / "val_f.pt").exists():
        splits["val"] = _load(cache / "val_f.pt", 2), _load(cache / "val_l.pt", 1).long()
    splits["test"] = _load(cache / "test_f.pt", 2), _load(cache / "test_l.pt", 1).long()
    for name, (features, label) in splits.items():
        if len(features) != len(label) or label.min() < 0 or label.max() >= n_classes:
            raise UserError(
                f"{cache}: {name} has {len(features)} features and {len(label)} labels from "
                f"{label.min()} to {label.max()}, for {n_classes} classes: these files do not "
                "belong together."
            )
    return splits


def _write(
    output: Path,
    classes: Sequence[str],
    meta: dict[str, Any],
    text: Float[Tensor, "c d"],
    splits: dict[str, tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]],
    kept: Sequence[int],
) -> None:
    """Write the folder as a whole: under a temporary name first."""
    if output.exists():
        raise UserError(f"{output} exists: choose another folder, or remove it.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        folder = Path(temporary) / output.name
        write_json(folder / "classes.json", list(classes))
        write_json(folder / "meta.json", meta)
        _save(folder / "text.safetensors", {"text": text.contiguous()})
        for name, (features, label) in splits.items():
            rows = torch.isin(label, torch.tensor(kept))
            relabelled = torch.searchsorted(torch.tensor(kept), label[rows])
            content = {"global": features[rows].contiguous(), "label": relabelled}
            _save(folder / f"{name}.safetensors", content)
        folder.rename(output)


def _save(path: Path, content: dict[str, Tensor]) -> None:
    with replacing(path) as temporary:
        save_file(content, temporary)


def _read_names(path: Path) -> list[str]:
    names = read_json(path, NAMES)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} is no list of names. {NAMES}")
    return names


def _read_text(path: Path) -> Float[Tensor, "t d"]:
    if path.suffix != ".npy":
        return _load(path, 2)
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a NumPy array: {error}.") from None


def _load(path: Path, dimensions: int) -> Tensor:
    try:
        tensor = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UserError(f"{path} is missing.") from None
    except Exception as error:  # A damaged file can make torch raise anything.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} does not hold a tensor and nothing else: {reason}") from None
    if not isinstance(tensor, Tensor) or tensor.ndim != dimensions:
        raise UserError(f"{path} does not hold a tensor of {dimensions} dimensions.")
    return tensor


if __name__ == "__main__":
    run_command(main)
