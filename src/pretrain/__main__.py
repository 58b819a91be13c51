"""Pretrain `tiny` and write it where the backbone of that name is read from.

`python -m src.pretrain` remakes the weights in the repository; on two cores it takes about ten
minutes. `--steps 0` keeps the weights that are there, and learns only the names of solids.
"""

import argparse
from pathlib import Path

from open_clip.model import CLIP
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from src.pretrain.solids import learn_solids
from src.pretrain.training import save, train

TINY = Path(__file__).parents[1] / "clip" / "tiny"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, default=TINY, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=4500, help="of the training on glyphs")
    parser.add_argument("--renderings", type=int, default=150, help="of each kind of solid")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.steps:
        save(_train(arguments.steps, arguments.seed), arguments.out)
    learn_solids(arguments.out, arguments.renderings, arguments.seed)
    print(f"wrote {arguments.out}")


def _train(steps: int, seed: int) -> CLIP:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.2f}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("pretraining", total=steps, loss=float("nan"))
        return train(
            steps,
            seed,
            report=lambda step, loss: progress.update(task, completed=step, loss=loss),
        )


if __name__ == "__main__":
    main()
