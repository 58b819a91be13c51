"""The second stage of pretraining: `tiny` learns the names of solids; no other weight changes.

Only the rows of the token table that belong to those names are learned; they were zero. The image
tower has seen only glyphs and stays as it is, so what it makes of a solid is what a text feature
has to match. Everything that `tiny` said before, it says still, bit for bit.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from src.data.images import SPLITS
from src.data.solids import KINDS, make
from src.files import replacing
from src.pretrain.augment import IMAGE_SIZE
from src.pretrain.captions import TEMPLATES, captions
from src.pretrain.shading import shade
from src.pretrain.training import CONFIG, CONTEXT_LENGTH, WEIGHTS

_TABLE = "token_embedding.weight"
_STEPS = 400
_LEARNING_RATE = 0.02
_INITIAL = 0.1
"""Standard deviation of the rows at first, equal to that of the rows of the first stage."""


def learn_solids(folder: Path, renderings: int, seed: int) -> None:
    """Learn the words of the solids' names, in the weights that `folder` holds.

    Equal arguments give equal weights on one machine, whether the words were learned before or not.

    Args:
        folder: as `src.pretrain.training.save` writes it.
        renderings: shaded images of each kind to learn from.
        seed: decides the renderings, the initial rows and the captions that are drawn.
    """
    weights = load_file(folder / WEIGHTS)
    words = new_words()
    with torch.random.fork_rng(devices=[]):
        model = CLIP(**CONFIG["model_cfg"])
        model.load_state_dict({name: value.float() for name, value in weights.items()})
        features = _image_features(model.eval().requires_grad_(False), renderings, seed)
        torch.manual_seed(seed)
        weights[_TABLE][words] = _learn(model, features, words).half()
    with replacing(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)


def new_words() -> Int64[Tensor, " w"]:
    """List the tokens of the solids' names, sorted, that no caption of the first stage has."""
    tokenizer = SimpleTokenizer()
    known = {token for caption in captions() for token in tokenizer.encode(caption.text)}
    return torch.tensor(sorted({t for kind in KINDS for t in tokenizer.encode(kind)} - known))


def _image_features(model: CLIP, renderings: int, seed: int) -> Float[Tensor, "k n d"]:
    """Shade `renderings` solids of each kind that are not in the dataset; return unit features."""
    images = [
        # Where the dataset has the number of a split, this has a number that no split has.
        shade(make(kind, generator), IMAGE_SIZE, generator)
        for label, kind in enumerate(KINDS)
        for generator in (
            np.random.default_rng((seed, len(SPLITS), label, number))
            for number in range(renderings)
        )
    ]
    pixels = 2 * torch.from_numpy(np.stack(images)).float().movedim(-1, 1) - 1
    with torch.no_grad():
        features = torch.cat([model.encode_image(some, True) for some in torch.split(pixels, 256)])
    return features.reshape(len(KINDS), renderings, -1)


def _learn(
    model: CLIP, features: Float[Tensor, "k n d"], words: Int64[Tensor, " w"]
) -> Float[Tensor, "w width"]:
    """Fit the rows of `words` so that a rendering is nearest to the caption of its kind."""
    tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    texts = tokenizer([template.format(kind) for template in TEMPLATES for kind in KINDS])
    # The few tokens that occur, renumbered in their order: the last is still the end of the text.
    used, compact = texts.unique(return_inverse=True)
    compact = compact.reshape(len(TEMPLATES), len(KINDS), CONTEXT_LENGTH)
    places = torch.searchsorted(used, words)
    known = model.token_embedding.weight[used]
    rows = nn.Parameter(_INITIAL * torch.randn(len(words), known.shape[1]))
    images = features.flatten(0, 1)
    labels = torch.arange(len(KINDS)).repeat_interleave(features.shape[1])
    optimizer = torch.optim.Adam([rows], _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        template = int(torch.randint(len(TEMPLATES), ()))
        table = {_TABLE: known.index_put((places,), rows)}
        text = torch.func.functional_call(model, table, kwargs={"text": compact[template]})[1]
        loss = functional.cross_entropy(model.logit_scale.exp() * images @ text.T, labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return rows.detach()
