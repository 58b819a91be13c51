"""Text features of prompts, and prompts that a model cannot read."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from src.clip import tokenizers
from src.clip.tokenizers import Reading
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
    """Refuse what open_clip's own tokenizers would cut off or the model cannot read.

    Raises:
        UserError: a prompt is too long, or has a word that the model never saw in training.
    """
    read = tokenizers.reading(tokenizer)
    if read is None:
        return
    for prompt in prompts:
        length = len(read.encode(prompt)) + read.around
        if length > tokenizer.context_length:
            raise UserError(
                f"the prompt {prompt!r} has {length} tokens and {architecture} reads "
                f"{tokenizer.context_length}: shorten the prompt or the class name."
            )
    check_words(prompts, read, _token_table(model), architecture)


def _token_table(model: Any) -> nn.Embedding:
    text = getattr(model, "text", model)
    # A text tower of transformers has a method for it.
    table = getattr(text, "token_embedding", None) or text.transformer.get_input_embeddings()
    return cast(nn.Embedding, table)


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
    prompts: Sequence[str], read: Reading, embedding: nn.Embedding, architecture: str
) -> None:
    """Refuse words that a model cannot know.

    Either they are not in the vocabulary, or the model never saw them in training: their rows of
    the token table are zero.

    Args:
        prompts: the prompts to check, of any length.
        read: how the model's tokenizer reads them.
        embedding: the model's token table.
        architecture: the model's name, for the message.

    Raises:
        UserError: some word is unknown; up to five of them and their prompts are named.
    """
    unseen = set((~embedding.weight.any(dim=1)).nonzero().flatten().tolist()) | read.unknown

    def strange(text: str) -> bool:
        return not unseen.isdisjoint(read.encode(text))

    unknown: dict[str, str] = {}
    for prompt in filter(strange, prompts):
        for word in list(filter(strange, read.words(prompt))) or [prompt]:
            unknown.setdefault(word, prompt)
    if unknown:
        raise UserError(
            f"{architecture} does not know the word(s) {at_most(unknown)} (as in "
            f"{at_most(map(repr, dict.fromkeys(unknown.values())))}): rename the classes, "
            "change the template, or choose another backbone."
        )
