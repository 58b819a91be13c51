"""`python -m src.run`: one run, or a sweep with `-m`; `show=dataset` lists choices.

Torch is imported only once the configuration has been composed and checked.
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.choices import show
from src.command_line import explaining, run_command
from src.config import arrange, as_lists
from src.files import CONFIG_DIR, naming_full_disk
from src.job import sweep
from src.job.folder import claim, keep_configuration, warn_of_another
from src.job.job import run, sweeping


@hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> float | None:
    """Run one job, by itself or as part of a sweep."""
    os.chdir(HydraConfig.get().runtime.cwd)  # hydra.job.chdir=true moves no path that was given
    if sweeping():
        return sweep.run_job(cfg, run)
    with explaining():  # before Hydra adds words of its own
        folder = Path(cfg.paths.output)
        with naming_full_disk(folder, Path(cfg.paths.features)), claim(folder, "hydra.run.dir"):
            warn_of_another(cfg, folder)
            keep_configuration(cfg, folder)
            return run(cfg)


def list_choices() -> None:
    """Print the choices of each group that `show=` names."""
    for one in sys.argv[1:]:
        show(one.removeprefix("show="))


if __name__ == "__main__":
    sys.argv[1:] = as_lists(arrange(sys.argv[1:]), "eval_dataset", "tags")
    if sys.argv[1:] and all(one.startswith("show=") for one in sys.argv[1:]):
        run_command(list_choices)
    else:
        try:
            with sweep.ending():
                run_command(main)
        except KeyboardInterrupt:  # while the results of a sweep were shown
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
