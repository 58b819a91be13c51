"""What jobs need of the feature store, by the very code that decides it in a run.

A run's source of features is replaced by one that notes what is missing from the store. Nothing is
written, and no method is run. `dry_run=true` shows it, and a sweep extracts it before its jobs.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from src.command_line import explain
from src.config import build, draws_images, has_other_prompts, selection_of
from src.job import assembly, attention_images, calibrating, protocols, reuse, shift
from src.job.planned import Need, Planned
from src.job.trainer import check_trainer
from src.methods import checkpoint
from src.validation import validate

TEXT = ("text", "raw_text", "prompt_text")
"""What a head may be given that is read from the store."""
OF_A_SOURCE = (
    "dataset", "backbone", "trainer", "on_bad_image", "method.test_crops", "paths.features",
    "paths.data", "protocol.name",
)  # fmt: skip
"""What decides how a job's features are made, in `src.job.assembly.make_features`."""


class Wanted(NamedTuple):
    """What some jobs ask for.

    Attributes:
        number: of the first of them.
        cfg: its configuration.
        hydra: the same with Hydra's own part.
        jobs: how many there are.
    """

    number: int
    cfg: DictConfig
    hydra: Any
    jobs: int = 0


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
        """Take a job, whose configuration is Hydra's present one, and check it."""
        with self._counting_failures(1):
            check(cfg)
            self.note(cfg)

    def note(self, cfg: DictConfig, number: int = 0) -> None:
        """Take a job whose like was checked, and its number in a sweep."""
        key = _wanted(cfg)
        found = self._wanted.get(key, Wanted(number, cfg, HydraConfig.instance().cfg))
        self._wanted[key] = found._replace(jobs=found.jobs + 1)

    def plan(self) -> dict[int, list[Need]]:
        """Plan all jobs, those first that need the most features: their entries serve others too.

        Returns:
            By the number of the job that asks first, what is missing from the store.
        """
        first: dict[int, list[Need]] = {}
        for one in sorted(self._wanted.values(), key=lambda one: -len(_head(one.cfg).inputs)):
            known = set(self.needs)
            HydraConfig.instance().cfg = one.hydra
            with self._counting_failures(one.jobs):
                self._plan(one.cfg)
            new = [need for folder, need in self.needs.items() if folder not in known]
            if missing := [need for need in new if need.missing]:
                first[one.number] = missing
        return first

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


def check(cfg: DictConfig) -> None:
    """Check a job's configuration as a run does, and drop what its method has not.

    Raises:
        UserError: a setting is wrong.
    """
    validate(cfg)
    assembly.check_method(cfg)


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
