"""What a run asks of the features of its dataset, wherever they come from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from src.clip.crops import AnyAugmentation
from src.clip.text_tower import TextTower
from src.data.few_shot import MAX_VALIDATION_SHOTS, Imbalance
from src.features.datamodule import Features


class Origin(NamedTuple):
    """What features were computed with, as a run's record states it; None: not known.

    Attributes:
        backbone: the name in tables.
        architecture: open_clip's name, or `local-dir:` and a folder.
        weights: their tag or checksum, as `src.clip.weights.weights_id` gives it.
        prompts: SHA-256 of the classes' prompts.
        precision: Lightning's name of the precision that image features were computed in.
        preprocessing: how images were prepared: a tag of open_clip, `open_clip_config.json`, or the
            setting in words.
    """

    backbone: str
    architecture: str | None
    weights: str | None
    prompts: str | None
    precision: str | None
    preprocessing: str | None = None


class FeatureSource(Protocol):
    """What a run asks of its dataset, whether the features are ours or the user's.

    A head is built with some of the attributes: `src.heads.base.GIVEN` says what each one is.
    """

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def text(self) -> Float[Tensor, "c d"]: ...

    @property
    def raw_text(self) -> Float[Tensor, "c d"]: ...

    @property
    def prompt_text(self) -> Float[Tensor, "p d"]: ...

    @property
    def prompt_label(self) -> Int[Tensor, " p"]: ...

    @property
    def projection(self) -> Float[Tensor, "w d"]: ...

    @property
    def projection_bias(self) -> Float[Tensor, " d"]: ...

    @property
    def logit_scale(self) -> float: ...

    @property
    def logit_bias(self) -> float:
        """What models trained with a sigmoid add to scaled similarities; 0 for the others."""

    @property
    def text_tower(self) -> TextTower: ...

    @property
    def n_views(self) -> int | None:
        """How many depth maps an item has, in features `[n, v, ...]`; None for photographs."""

    @property
    def origin(self) -> Origin: ...

    @property
    def skipped_images(self) -> Mapping[str, str]:
        """Say which images were left out of what was given so far, by path, and why."""

    def split(self, name: str, inputs: Sequence[str]) -> Features:
        """Give all of `train`, `val` or `test`, with at least the features called `inputs`."""

    def few_shot_validation(
        self, shots: int, seed: int, inputs: Sequence[str], most: int = MAX_VALIDATION_SHOTS
    ) -> Features:
        """Draw min(`shots`, `most`) validation images per class, by CoOp's protocol."""

    def support(
        self,
        shots: int,
        seed: int,
        inputs: Sequence[str],
        augmentation: AnyAugmentation | None,
        imbalance: Imbalance | None = None,
    ) -> tuple[dict[str, Tensor], Int[Tensor, " n"]]:
        """Draw a support set: crops `[v, n, ...]` by name, and labels.

        It is that of CoOp's protocol, or has its classes as often as they are frequent.
        """
