"""Pretrain `tiny` and write it where the backbone of that name is read from.

`python -m src.pretrain` remakes the weights in the repository; on two cores it takes about ten
minutes.
"""

import argparse
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from src.pretrain.training import save, train

TINY = Path(__file__).parents[1] / "features" / "tiny"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, default=TINY, help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.2f}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("pretraining", total=arguments.steps, loss=float("nan"))
        model = train(
            arguments.steps,
            arguments.seed,
            report=lambda step, loss: progress.update(task, completed=step, loss=loss),
        )
    save(model, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
