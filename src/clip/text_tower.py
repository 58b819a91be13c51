"""The frozen text tower of CLIP, for prompts that are partly learned."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.clip.model import FrozenClip
from src.clip.text import check_words
from src.clip.tokenizers import reading
from src.data.prompts import make_prompts
from src.errors import UserError

CLASSES_PER_PASS = 128
"""Classes in one packed sequence: enough to share the prefix, few enough for a small attention."""


class TextTower(nn.Module):
    """Computes text features from token embeddings; weights are frozen, gradients pass through."""

    positional_embedding: Tensor
    text_projection: Tensor

    def __init__(self, clip: FrozenClip) -> None:
        """Take the text tower out of `clip`, whose image tower is not kept.

        Raises:
            UserError: the text tower is not CLIP's: causal, its text ended by the highest token.
        """
        super().__init__()
        text = getattr(clip.model, "text", clip.model)
        if other := _unlike_clips(text, clip.tokenizer):
            raise UserError(
                "this method learns the context of a text transformer as OpenAI's CLIP has it, and "
                f"{clip.architecture} {other}: choose a backbone as OpenAI's, or another method."
            )
        self.architecture, self.tokenizer = clip.architecture, clip.tokenizer
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.transformer = text.transformer
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.eval()

    def embed(
        self, class_names: Sequence[str], n_context: int
    ) -> tuple[Float[Tensor, "c l w"], Int[Tensor, " c"]]:
        """Embed the tokens of "<start> X ... X {class name}. <end>", an X for each context token.

        Underscores in class names are read as spaces.

        Returns:
            The embeddings, float32, cut behind the longest class, and where each class ends. The
            context's, at positions 1 to `n_context`, are placeholders.

        Raises:
            UserError: `n_context` is not positive, a class is too long for the model's context
                together with it, or has a word that the model never saw in training.
        """
        if n_context < 1:
            raise UserError(f"n_context={n_context} leaves nothing to learn: give 1 or more.")
        names = [prompt for [prompt] in make_prompts(class_names, ["{}."])]
        for name in names:
            length = len(self.tokenizer.encode(name)) + n_context + 2  # the start and the end
            if length > self.tokenizer.context_length:
                raise UserError(
                    f"the class {name[:-1]!r} has {length} tokens with n_context={n_context}, and "
                    f"{self.architecture} reads {self.tokenizer.context_length}: shorten the class "
                    "name or lower n_context."
                )
        read = reading(self.tokenizer)
        assert read is not None
        check_words(names, read, self.token_embedding, self.architecture)
        tokens = self.tokenizer(["X " * n_context + name for name in names])
        tokens = tokens.to(self.positional_embedding.device)
        ends = tokens.argmax(dim=-1)
        return self.token_embedding(tokens[:, : int(ends.max()) + 1]), ends

    def embed_words(self, words: str) -> Float[Tensor, "m w"]:
        """Embed the tokens of words that a context begins with, such as "a photo of a".

        Raises:
            UserError: the model never saw one of them in training.
        """

        def embedded(text: str) -> Float[Tensor, "m w"]:
            tokens = torch.tensor(self.tokenizer.encode(text), dtype=torch.int64)
            rows: Tensor = self.token_embedding(tokens.to(self.positional_embedding.device))
            return rows

        # The rows of such words in the token table are zero.
        unknown = [word for word in words.split() if not embedded(word).any(dim=1).all()]
        if unknown:
            raise UserError(
                f"method.head.initial_words={words!r}: {self.architecture} does not know the "
                f"word(s) {', '.join(unknown)}: give others, or choose another backbone."
            )
        return embedded(words)

    def forward(
        self,
        prefix: Float[Tensor, "*k p w"],
        suffixes: Float[Tensor, "c s w"],
        ends: Int[Tensor, " c"],
    ) -> Float[Tensor, "*k c d"]:
        """Compute the text features of prompts that begin alike, not normalised.

        The tower is causal: a prefix's activations are the same whatever follows. So it is
        computed once for many classes, not once for each, and what follows the end of a class is
        not computed at all. For 16 context tokens and short class names that is about a quarter of
        the work and of the memory.

        Args:
            prefix: token embeddings of the common beginning, the start of the text included; or k
                of them, each of which all the classes follow.
            suffixes: token embeddings of each class's rest.
            ends: where in the whole prompt each class has its end token, at `p` or behind it.
        """
        groups = zip(
            torch.split(suffixes, CLASSES_PER_PASS),
            torch.split(ends, CLASSES_PER_PASS),
            strict=True,
        )
        several = prefix if prefix.dim() == 3 else prefix.unsqueeze(0)
        features = torch.cat([self._packed(several, *group) for group in groups], dim=1)
        return features if prefix.dim() == 3 else features.squeeze(0)

    def _packed(
        self,
        prefix: Float[Tensor, "k p w"],
        suffixes: Float[Tensor, "c s w"],
        ends: Int[Tensor, " c"],
    ) -> Float[Tensor, "k c d"]:
        """Send each prefix and the rests of all classes through the tower as one sequence."""
        k, length, _ = prefix.shape
        common = torch.arange(length, device=ends.device)
        rest = torch.arange(length, length + suffixes.shape[1], device=ends.device)
        used = rest <= ends.unsqueeze(1)
        position = torch.cat([common, rest.expand_as(used)[used]])
        tokens = torch.cat([prefix, suffixes[used].expand(k, -1, -1)], dim=1)
        # A token sees the prefix, and those of its own class before it.
        owner = torch.cat([torch.full_like(common, -1), used.nonzero()[:, 0]])
        visible = ((owner == -1) | (owner == owner.unsqueeze(1))).tril()
        mask = torch.zeros_like(visible, dtype=tokens.dtype).masked_fill(~visible, -torch.inf)
        output = self.transformer(tokens + self.positional_embedding[position], attn_mask=mask)
        last = length - 1 + used.sum(dim=1).cumsum(dim=0)
        features: Tensor = self.ln_final(output[:, last]) @ self.text_projection
        return features


def _unlike_clips(text: Any, tokenizer: Any) -> str:
    """Say in what a model's text tower is unlike CLIP's; nothing where it is alike."""
    from open_clip import SimpleTokenizer

    if not isinstance(tokenizer, SimpleTokenizer):
        return "has another tokenizer, as SigLIP's or that of a language model"
    if text.attn_mask is None:
        return "reads its text in both directions"
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    if pool != "argmax" or getattr(text, "cls_emb", None) is not None:
        return "reads the text's feature at another token than its end"
    if not isinstance(text.text_projection, nn.Parameter):
        return "projects it by another layer than a matrix"
    return ""
