"""Text features of prompts, and prompts that a model cannot read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from src.data.text_files import at_most
from src.errors import UserError

PROMPTS_PER_PASS = 256
SAME_TEXT = 1 - 1e-6
"""Cosine similarity from which two classes cannot be told apart in float32."""


class TextFeatures(NamedTuple):
    """The text features of some classes, float32 `[c, d]`.

    Attributes:
        text: the ensemble of Radford et al. (2021), section 3.1.4: each prompt's feature is
            normalised, the mean over a class's prompts is normalised again. Of length 1.
        raw_text: the mean of the prompts' features as CLIP gives them. TaskRes and CLAP start from
            it, and its length matters to them: about 10 for OpenAI's ViT-B/32.
    """

    text: Float[Tensor, "c d"]
    raw_text: Float[Tensor, "c d"]


def encode(prompts: Sequence[str], tokenizer: Any, model: Any) -> Float[Tensor, "p d"]:
    """Compute the feature of each prompt in float32, as the text tower gives it."""
    chunks = [
        _encode_tokens(tokenizer(list(prompts[start : start + PROMPTS_PER_PASS])), model)
        for start in range(0, len(prompts), PROMPTS_PER_PASS)
    ]
    return torch.cat(chunks).float()


def join(raw: Float[Tensor, "p d"], sizes: Sequence[int]) -> TextFeatures:
    """Join the features of the prompts of each class, whose numbers are given in order."""
    features = normalize(_means(normalize(raw, dim=-1), sizes), dim=-1)
    return TextFeatures(features, _means(raw, sizes))


def _encode_tokens(tokens: Int[Tensor, "n length"], model: Any) -> Float[Tensor, "n d"]:
    tokens = tokens.to(model.logit_scale.device)
    if getattr(model, "text_pool_type", None) != "argmax" or model.attn_mask is None:
        found: Tensor = model.encode_text(tokens)
        return found
    # A causal tower that is read at the end of the text never sees the padding behind it:
    # without the padding it gives the same features, for prompts of 10 tokens 9 times faster.
    length = int(tokens.argmax(dim=-1).max()) + 1
    shortened = {
        "model.positional_embedding": model.positional_embedding[:length],
        "model.attn_mask": model.attn_mask[:length, :length],
    }
    features: Tensor = torch.func.functional_call(
        _TextEncoder(model), shortened, tokens[:, :length]
    )
    return features


class _TextEncoder(nn.Module):
    """Encodes text, not normalised, as a call of a module, which `functional_call` needs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n d"]:
        features: Tensor = self.model.encode_text(tokens)
        return features


def _means(rows: Float[Tensor, "p d"], sizes: Sequence[int]) -> Float[Tensor, "c d"]:
    """Average consecutive groups of rows, whose sizes are given in order."""
    return torch.stack([group.mean(dim=0) for group in torch.split(rows, list(sizes))])


def check_prompts(prompts: Sequence[str], tokenizer: Any, model: Any, architecture: str) -> None:
    """Refuse what open_clip's own tokenizer would cut off or the model cannot read.

    Raises:
        UserError: a prompt is too long, or has a word that the model never saw in training.
    """
    from open_clip import SimpleTokenizer

    if not isinstance(tokenizer, SimpleTokenizer):
        return
    for prompt in prompts:
        length = len(tokenizer.encode(prompt)) + 2  # the start and the end of the text
        if length > tokenizer.context_length:
            raise UserError(
                f"the prompt {prompt!r} has {length} tokens and {architecture} reads "
                f"{tokenizer.context_length}: shorten the prompt or the class name."
            )
    embedding = getattr(model, "text", model).token_embedding
    check_words(prompts, tokenizer, embedding, architecture)


def check_distinct(
    features: Float[Tensor, "c d"], prompts: Sequence[Sequence[str]], architecture: str
) -> None:
    """Refuse classes whose text features are equal although their prompts differ.

    Raises:
        UserError: there are such classes.
    """
    pairs = ((features @ features.T).triu(diagonal=1) > SAME_TEXT).nonzero().tolist()
    same = [
        f"{prompts[i][0]!r} and {prompts[j][0]!r}"
        for i, j in pairs
        if list(prompts[i]) != list(prompts[j])
    ]
    if same:
        raise UserError(
            f"{architecture} cannot tell apart {at_most(same)}: their text features are "
            "equal. Rename or merge the classes."
        )


def check_words(
    prompts: Sequence[str], tokenizer: Any, embedding: nn.Embedding, architecture: str
) -> None:
    """Refuse words that a model never saw in training: their rows of the token table are zero.

    Args:
        prompts: the prompts to check, of any length.
        tokenizer: open_clip's SimpleTokenizer.
        embedding: the model's token table.
        architecture: the model's name, for the message.

    Raises:
        UserError: some word is unknown; up to five of them and their prompts are named.
    """
    unseen = set((~embedding.weight.any(dim=1)).nonzero().flatten().tolist())
    unknown: dict[str, str] = {}
    for prompt in prompts:
        if not unseen.isdisjoint(tokenizer.encode(prompt)):
            for word in tokenizer.pat.findall(tokenizer.clean_fn(prompt)):
                if not unseen.isdisjoint(tokenizer.encode(word)):
                    unknown.setdefault(word, prompt)
    if unknown:
        raise UserError(
            f"{architecture} does not know the word(s) {at_most(unknown)} (as in "
            f"{at_most(map(repr, dict.fromkeys(unknown.values())))}): rename the classes, "
            "change the template, or choose another backbone."
        )
