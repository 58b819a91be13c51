"""What jobs would extract and store, by the very code that decides it in a run.

A run's source of features is replaced by one that notes what is missing from the store. Nothing is
written, and no method is run.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal
from rich.text import Text

from src.command_line import explain, make_console
from src.config import (
    build,
    config_hash,
    draws_images,
    has_other_prompts,
    selection_of,
    validate,
)
from src.errors import UserError
from src.features.disk_space import RESERVE, free_bytes
from src.hints import without_hints
from src.job import assembly, attention_images, calibrating, protocols, reuse, shift
from src.job.dry_run import is_finished
from src.job.planned import Need, Planned
from src.job.probe import SECONDS, Probe
from src.job.trainer import check_trainer
from src.methods import checkpoint
from src.results.terminal import print_rows

TEXT = ("text", "raw_text", "prompt_text")
"""What a head may be given that is read from the store."""
OF_A_SOURCE = (
    "dataset", "backbone", "trainer", "on_bad_image", "method.test_crops", "paths.features",
    "paths.data", "protocol.name",
)  # fmt: skip
"""What decides how a job's features are made, in `src.job.assembly.make_features`."""
WORDS = {"dataset", "split", "backbone", "features"}


class Wanted(NamedTuple):
    """What some jobs ask for.

    Attributes:
        cfg: of the first of them.
        hydra: Hydra's own part of it.
        jobs: how many there are.
    """

    cfg: DictConfig
    hydra: Any
    jobs: int = 1


class Planner:
    """Notes what jobs need.

    Attributes:
        needs: the entries of the store, by their folders, once the jobs are planned.
        failures: how many jobs would fail, by the message.
    """

    def __init__(self) -> None:
        self.needs: dict[Path, Need] = {}
        self.failures: Counter[str] = Counter()
        self._wanted: dict[str, Wanted] = {}
        self._read: dict[str, Any] = {}
        self._sources: dict[str, Planned] = {}

    def add(self, cfg: DictConfig) -> None:
        """Take a job, whose configuration is Hydra's present one."""
        with self._counting_failures(1):
            validate(cfg)
            assembly.check_method(cfg)
            key = _wanted(cfg)
            found = self._wanted.get(key, Wanted(cfg, HydraConfig.instance().cfg, 0))
            self._wanted[key] = found._replace(jobs=found.jobs + 1)

    def plan(self) -> None:
        """Plan all jobs, in their order: an entry that holds more features serves later ones."""
        for one in self._wanted.values():
            HydraConfig.instance().cfg = one.hydra
            with self._counting_failures(one.jobs):
                self._plan(one.cfg)

    @contextmanager
    def _counting_failures(self, jobs: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            self.failures[message] += jobs

    def _plan(self, cfg: DictConfig) -> None:
        """Ask for all features that the stages of a run ask for (`src.job.stages.run`)."""
        check_trainer(cfg)
        head_class = _head(cfg)
        dataset, others = self._dataset(cfg)
        attention_images.check(cfg, dataset)
        if cfg.ckpt_path is not None:
            saved = checkpoint.read(Path(cfg.ckpt_path), cfg.method.name)
            reuse.adopt(cfg, saved)
        made = assembly.make_source(cfg, dataset)
        if made is dataset:
            return  # features that the user brought
        whole = self._source(cfg, "", made)
        source, unseen = protocols.divide(cfg, whole)
        assembly.check_views(cfg, head_class, source.n_views)
        inputs = list(head_class.inputs)
        texts = [name for name in TEXT if name == "text" or name in head_class.given]
        for name in texts:
            getattr(source, name)
        support = assembly.make_support(cfg, source, _stand_in(head_class))
        train_on = support if cfg.ckpt_path is None else None
        assembly.make_data(cfg, source, inputs, train_on)
        calibrating.images_for(cfg, source, inputs)
        if unseen is not None:
            unseen.split("test", inputs)
        # Zero-shot CLIP's accuracy stands beside some figures.
        beside = head_class.sees != "image" or has_other_prompts(cfg)
        asked = [inputs, ["global"]] if beside else [inputs]
        evaluated = [whole, *(self._evaluated(cfg, other, texts) for other in others)]
        for features, names in product(evaluated, asked):
            features.split("test", names)

    def _evaluated(self, cfg: DictConfig, other: Any, texts: Iterable[str]) -> Planned:
        """Give the features of a further dataset, with their text where its classes are its own."""
        own = other.classes is None
        prompts = assembly.make_class_prompts(other.cfg, other.images.class_names) if own else ()
        made = assembly.make_features(cfg, other.name, other.images, prompts)
        planned = self._source(cfg, other.name, made)
        for name in texts if own else ():
            getattr(planned, name)
        return planned

    def _dataset(self, cfg: DictConfig) -> tuple[Any, Any]:
        """Read the dataset and those that are evaluated beside it, each once for all jobs."""
        own = _json(cfg, "dataset.reader", "paths.data")
        if own not in self._read:
            self._read[own] = build(cfg.dataset.reader)
        dataset = self._read[own]
        key = own + _json(cfg, "eval_dataset", "protocol.name")
        if key not in self._read:
            self._read[key] = shift.read_all(cfg, dataset)
        return dataset, self._read[key]

    def _source(self, cfg: DictConfig, name: str, made: Any) -> Planned:
        """Let one source plan for all jobs that have the same one: it knows what it has hashed."""
        key = name + _json(cfg, *OF_A_SOURCE)
        if key not in self._sources:
            self._sources[key] = Planned.like(made, self.needs)
        return self._sources[key]


def _head(cfg: DictConfig) -> Any:
    return get_class(cfg.method.head._target_)


def _wanted(cfg: DictConfig) -> str:
    """Give all that decides which features a job asks for."""
    head = _head(cfg)
    about = [head.inputs, head.given, head.sees, head.needs_every_class, head.depth_maps]
    other = [selection_of(cfg), has_other_prompts(cfg)]
    drawn = [cfg.shots, cfg.seed] if draws_images(cfg) else []
    parts = ("method.support", "method.training", "protocol", "selection", "calibrate")
    more = ("eval_dataset", "callbacks", "ckpt_path", "attention_images")
    return json.dumps([*about, *other, *drawn]) + _json(cfg, *OF_A_SOURCE, *parts, *more)


def _json(cfg: DictConfig, *names: str) -> str:
    """Write parts of a configuration, with what they refer to."""
    found = [OmegaConf.select(cfg, name) for name in names]
    plain = [
        OmegaConf.to_container(one, resolve=True) if OmegaConf.is_config(one) else one
        for one in found
    ]
    return json.dumps(plain, sort_keys=True)


def _stand_in(head_class: Any) -> Any:
    """Make what a support set is shown to in place of the method's head, which it is not."""
    return SimpleNamespace(
        inputs=head_class.inputs,
        needs_every_class=head_class.needs_every_class,
        similarity_factors=(),
        affinity_factors=(),
        prepare=lambda _: None,
    )


def show(jobs: Iterable[DictConfig], sweep: bool) -> None:
    """Print what jobs would extract and store, and about how long that takes.

    Args:
        jobs: their configurations, one after the other, each while it is Hydra's own.
        sweep: whether they are those of a sweep, which skips what is finished.

    Raises:
        UserError: a job would fail, or the disk is too small.
    """
    planner = Planner()
    seen: dict[str, bool] = {}
    total = 0
    logging.getLogger("src").setLevel(logging.ERROR)  # a run says the rest
    with without_hints():
        for cfg in jobs:
            total += 1
            own = config_hash(cfg) if sweep else ""
            if own not in seen:
                seen[own] = sweep and is_finished(cfg)
                if not seen[own]:
                    planner.add(cfg)
        planner.plan()
        if planner.failures and not sweep:
            raise UserError(next(iter(planner.failures)))
        probe = Probe(list(planner.needs.values()))
    console = make_console()
    finished = sum(seen.values())
    counted = [f"{total} job{'s' * (total != 1)}"]
    counted += [f"{finished} finished"] if finished else []
    counted += [f"{total - len(seen)} that repeat another"] if total > len(seen) else []
    console.print(", of them ".join([counted[0], " and ".join(counted[1:])][: len(counted)]))
    _print(probe)
    if planner.failures:
        raise UserError(
            "\n".join(
                f"{count} of {total} jobs would fail: {message}"
                for message, count in planner.failures.items()
            )
        )
    for store, needed in probe.bytes_by_store().items():
        free = free_bytes(store)
        if free < needed + RESERVE:
            raise UserError(
                f"the disk of {store} has {decimal(free)} free, and {decimal(needed + RESERVE)} "
                "are needed: free some space, or give a folder on another disk by "
                "paths.features=..."
            )


def _print(probe: Probe) -> None:
    """Print a row for each dataset, split, backbone and set of features, and what they sum to."""
    groups: dict[tuple[str, ...], list[Need]] = defaultdict(list)
    for need in probe.needs:
        groups[need.group].append(need)
    if not groups:
        make_console().print("nothing is to be extracted")
        return
    rows = [_row(group, needs, probe) for group, needs in sorted(groups.items())]
    print_rows(
        [{heading: Text(cell) for heading, cell in row.items()} for row in rows], WORDS, WORDS
    )
    console = make_console()
    images = sum(need.to_encode for need in probe.needs if not need.is_text)
    prompts = sum(need.to_encode for need in probe.needs if need.is_text)
    lines = [f"to encode: {images:,} images and {prompts:,} prompts"]
    for store, needed in probe.bytes_by_store().items():
        free = decimal(free_bytes(store))
        lines.append(f"to store: about {decimal(needed)} in {store}, whose disk has {free} free")
    if seconds := sum(map(probe.seconds, probe.needs)):
        lines.append(
            f"time to extract: about {_duration(seconds)} on this machine, by a probe of "
            f"{SECONDS:.0f} seconds"
        )
    lines += [
        f"the weights of {name} are not here: it was measured with random ones, and a run fetches "
        "them first"
        for name in sorted(probe.without_weights)
    ]
    lines.append(
        "not estimated: starting jobs, loading models, and what methods do with the features "
        "(training, searches, tests)"
    )
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _row(group: Sequence[str], needs: Sequence[Need], probe: Probe) -> dict[str, str]:
    dataset, split, backbone, features = group
    return {
        "dataset": dataset,
        "split": split,
        "backbone": backbone,
        "features": features,
        "entries": str(len(needs)),
        "in store": str(sum(not need.missing for need in needs)),
        "images or prompts": f"{sum(need.inputs for need in needs):,}",
        "to encode": f"{sum(need.to_encode for need in needs):,}",
        "to store": decimal(sum(map(probe.bytes, needs))),
        "time": _duration(sum(map(probe.seconds, needs))),
    }


def _duration(seconds: float) -> str:
    """Write a rough duration in words."""
    if seconds < 1:
        return "< 1 s" if seconds > 0 else ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{round(seconds)} s"
