"""TDA: caches of the surest images of a stream (Karmanov et al., CVPR 2024)."""

import math
from bisect import insort
from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from src.errors import require_integer
from src.heads.base import Head

ROWS = 256
"""Images that are classified at a time: 5 MB of affinities with ImageNet's 5,000 keys."""


class Tda(Head):
    """Add to CLIP's logits a cache of what each class looks like, and take one of what it is not.

    With `f` the global and `T` `[c, d]` the text features, both normalised, zero-shot CLIP's
    probabilities p = softmax(scale · f Tᵀ), its answer ĉ and its entropy H(p) ("Efficient Test-Time
    Adaptation of Vision-Language Models", section 3; constants and details as in the authors'
    release):

        positive cache: of each ĉ the `capacity` images of lowest H, as keys k
        negative cache: of each ĉ the `negative_capacity` images of lowest H among those of
            entropy_low < H / log₂ c < entropy_high, as keys k with their p
        logits = scale · f Tᵀ + alpha Σ_positive exp(-beta · (1 - f·k)) e_ĉ
            - negative_alpha Σ_negative exp(-negative_beta · (1 - f·k)) 1[mask_low < p < mask_high]

    H is in nats, although it is divided by bits. An image is put before the caches first, and then
    classified with what is in them. It takes the place of the image of largest H of its class if
    its own is smaller; of several that have the largest, that of the last to come. Of
    `batch_size` images that arrive together, all are put before the caches, in their order, and
    then all are classified.

    What is sequential by nature, which images are keys and when, depends on ĉ and H alone, which
    one product gives for a block of images. It is found by a loop over plain numbers. The
    affinities of the block's images with all keys that were there during it are a few products,
    in which each key counts from the batch it came to that in which it was displaced.
    """

    sees = "stream"
    carries_over = True  # nothing is learned: other classes have other texts
    depth_maps = "refused"
    affinity_factors = ("beta", "negative_beta")
    text: Tensor
    against: Tensor

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        alpha: float,
        beta: float,
        negative_alpha: float = 0.117,
        negative_beta: float = 1.0,
        capacity: int = 3,
        negative_capacity: int = 2,
        entropy_low: float = 0.2,
        entropy_high: float = 0.5,
        mask_low: float = 0.03,
        mask_high: float = 1.0,
        batch_size: int = 1,
    ) -> None:
        """Keep the settings; both caches are empty.

        Args:
            text: class text features.
            logit_scale: the factor on CLIP's similarities.
            alpha: the share of the positive cache, from 0 up.
            beta: the sharpness of its affinities, from 0 up.
            negative_alpha: the share of the negative cache, from 0 up.
            negative_beta: the sharpness of its affinities, from 0 up.
            capacity: keys of each class in the positive cache, from 1 up.
            negative_capacity: keys of each class in the negative cache, from 1 up.
            entropy_low: the negative cache takes images above it, from 0 up.
            entropy_high: and below it; no entropy is above log 2, in this unit.
            mask_low: a negative key counts against classes whose probability is above it.
            mask_high: and below it.
            batch_size: how many images arrive together, from 1 up.

        Raises:
            UserError: a capacity or the batch size is below 1.
        """
        super().__init__()
        require_integer("method.head.capacity", capacity, least=1)
        require_integer("method.head.negative_capacity", negative_capacity, least=1)
        require_integer("method.head.batch_size", batch_size, least=1)
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.alpha = alpha
        self.beta = beta
        self.negative_alpha = negative_alpha
        self.negative_beta = negative_beta
        self.entropy_low = entropy_low * math.log2(len(text))
        self.entropy_high = entropy_high * math.log2(len(text))
        self.mask_low = mask_low
        self.mask_high = mask_high
        self.batch_size = batch_size
        self.positive = Cache(self.text, capacity)
        self.negative = Cache(self.text, negative_capacity)
        against = text.new_zeros(len(text) * negative_capacity, len(text))
        self.register_buffer("against", against, persistent=False)  # the masks of negative keys

    def reset(self) -> None:
        """Empty both caches."""
        self.positive.clear()
        self.negative.clear()

    def forward(self, global_features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Classify images in the order of their arrival, and keep those that are sure enough.

        Args:
            global_features: of whole batches, except for the last of a stream.
        """
        f = F.normalize(global_features, dim=-1)
        block = math.ceil(ROWS / self.batch_size) * self.batch_size
        return torch.cat([self._block(rows) for rows in torch.split(f, block)])

    def _block(self, f: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        logits = self.logit_scale * f @ self.text.T
        log_p = logits.log_softmax(dim=-1)
        p = log_p.exp()
        entropy = -(p * log_p).sum(dim=-1)
        images = list(enumerate(zip(logits.argmax(dim=-1).tolist(), entropy.tolist(), strict=True)))
        unsure = (one for one in images if self.entropy_low < one[1][1] < self.entropy_high)
        positive = self.positive.follow(images, self.batch_size)
        negative = self.negative.follow(unsure, self.batch_size)

        kept = (p > self.mask_low) & (p < self.mask_high)
        new_for = F.one_hot(positive.slot // self.positive.capacity, len(self.text)).to(f)
        new_against = kept[negative.row].to(f)
        batch = torch.arange(len(f), device=f.device) // self.batch_size
        for start in range(0, len(f), ROWS):
            rows = slice(start, start + ROWS)
            old, new = self.positive.affinity(f[rows], batch[rows], positive, f, self.beta)
            old_votes = old.view(-1, len(self.text), self.positive.capacity).sum(dim=-1)
            logits[rows] += self.alpha * (old_votes + new @ new_for)
            old, new = self.negative.affinity(f[rows], batch[rows], negative, f, self.negative_beta)
            logits[rows] -= self.negative_alpha * (old @ self.against + new @ new_against)

        self.positive.keep(positive, f)
        staying = self.negative.keep(negative, f)
        self.against[negative.slot[staying]] = new_against[staying].detach()
        return logits


class Lives(NamedTuple):
    """When keys were in a cache, in batches of a block of images.

    Attributes:
        until: int64 `[slots]`, the first batch without the key that was in a slot before the block;
            0 if none was.
        row: int64 `[m]`, the images of the block that were keys for at least a batch.
        slot: int64 `[m]`, where.
        since: int64 `[m]`, the first batch with the key.
        before: int64 `[m]`, the first batch without it, `STAYS` if it outlives the block.
    """

    until: Int[Tensor, " k"]
    row: Int[Tensor, " m"]
    slot: Int[Tensor, " m"]
    since: Int[Tensor, " m"]
    before: Int[Tensor, " m"]


STAYS = 2**62


class Cache(nn.Module):
    """The images of lowest entropy of each class, as keys.

    Attributes:
        keys: `[c · capacity, d]`, `capacity` slots for each class in turn.
        filled: bool `[c · capacity]`, whether a slot has a key.
        best: of each class, the entropy and the slot of its keys, in ascending order, and of equal
            ones in the order of their arrival.
    """

    keys: Tensor
    filled: Tensor

    def __init__(self, text: Float[Tensor, "c d"], capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        keys = text.new_zeros(len(text) * capacity, text.shape[1])
        self.register_buffer("keys", keys, persistent=False)
        filled = torch.zeros(len(keys), dtype=torch.bool, device=text.device)
        self.register_buffer("filled", filled, persistent=False)
        self.clear()

    def clear(self) -> None:
        """Forget all keys."""
        self.filled.zero_()
        self.best: list[list[tuple[float, int]]] = [
            [] for _ in range(len(self.filled) // self.capacity)
        ]

    def follow(self, images: Iterable[tuple[int, tuple[int, float]]], batch_size: int) -> Lives:
        """Put images before the cache, one by one, and see which are keys and when.

        Args:
            images: the row, the class and the entropy of each, in the order of their arrival.
            batch_size: how many rows are a batch.
        """
        left: dict[int, int] = {}  # the slots of the block before, and the batch that changed them
        here: dict[int, tuple[int, int]] = {}  # the row and the batch of a slot's present key
        lives = []
        for row, (label, entropy) in images:
            best, batch = self.best[label], row // batch_size
            if len(best) < self.capacity:
                slot = label * self.capacity + len(best)
            elif entropy < best[-1][0]:
                slot = best.pop()[1]
                if slot not in here:
                    left[slot] = batch
                elif here[slot][1] < batch:
                    lives.append((here[slot][0], slot, here[slot][1], batch))
            else:
                continue
            insort(best, (entropy, slot), key=itemgetter(0))
            here[slot] = row, batch
        lives += [(row, slot, since, STAYS) for slot, (row, since) in here.items()]
        until = torch.where(self.filled, STAYS, 0)
        until[list(left)] = until.new_tensor(list(left.values()))
        columns = until.new_tensor(lives).reshape(-1, 4).T
        return Lives(until, *columns)

    def affinity(
        self,
        f: Float[Tensor, "n d"],
        batch: Int[Tensor, " n"],
        lives: Lives,
        block: Float[Tensor, "b d"],
        beta: float,
    ) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n m"]]:
        """Compute exp(-beta · (1 - f·k)), or 0 for keys that were not there in an image's batch.

        Args:
            f: normalised features of some images of the block.
            batch: the batch of each.
            lives: of the keys, during the block.
            block: normalised features of all images of the block.
            beta: the sharpness.

        Returns:
            The affinities with the slots of before the block, and with the keys of `lives.row`.
        """
        now = batch.unsqueeze(1)
        old = (f @ self.keys.T).sub_(1).mul_(beta).exp_()
        new = (f @ block[lives.row].T).sub_(1).mul_(beta).exp_()
        there = (lives.since <= now) & (now < lives.before)
        return old.mul_(now < lives.until), new.mul_(there)

    def keep(self, lives: Lives, block: Float[Tensor, "b d"]) -> Bool[Tensor, " m"]:
        """Keep the keys that outlive a block; say which of `lives.row` these are."""
        staying = lives.before == STAYS
        slot = lives.slot[staying]
        self.keys[slot] = block[lives.row[staying]].detach()
        self.filled[slot] = True
        return staying
