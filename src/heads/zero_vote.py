"""ZERO: the most confident crops of an image vote (Farina et al., NeurIPS 2024)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from src.errors import UserError
from src.heads.base import Head


class ZeroVote(Head):
    """Let the crops of which CLIP is most certain vote, each for its most probable class.

    With x_i the normalised features of an image's k crops and `T` `[c, d]` the text features:

        p_i = softmax(scale · x_i Tᵀ);  the m = max(1, ⌊kept · k⌋) crops of lowest entropy vote
        votes_c = how many of those m have the largest x_i · T_c at c

    which is the marginal of their softmax at temperature 0. If several classes have the most votes,
    the first of the crops number m, m + 1, ... that is for one of them gives that class a further
    vote, as in the authors' release (it takes those crops in the order in which they were drawn,
    not of their certainty). If none is, or there are no such crops, crop m (or the last) decides:
    the class among them that is most similar to it gets the vote. (There the release may name a
    class without a vote, by an index that is negated.) On a GPU the release computes in float16,
    where its "zero" temperature is 2⁻¹⁰: its votes are not quite whole there, and ours are.

    The logits are the logarithms of the votes, so that their softmax is the share of each class.
    Classes without a vote come last, in the order of their largest similarity to a crop that votes;
    a share of theirs is below 1e-37. That order is ours, and makes the top 5 well defined.
    """

    inputs = ("crops",)
    depth_maps = "refused"
    carries_over = True
    text: Tensor

    def __init__(self, text: Float[Tensor, "c d"], logit_scale: float, kept: float) -> None:
        """Keep the settings.

        Args:
            text: the classes' text features, of any length.
            logit_scale: the factor on cosine similarities.
            kept: the share of an image's crops that vote, above 0, at most 1.

        Raises:
            UserError: `kept` is out of range.
        """
        super().__init__()
        if not 0 < kept <= 1:
            raise UserError(
                f"method.head.kept={kept}: give the share of the crops that vote, above 0 and at "
                "most 1."
            )
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale, self.kept = logit_scale, kept

    def forward(self, crops: Float[Tensor, "n k d"]) -> Float[Tensor, "n c"]:
        similarity = F.normalize(crops, dim=-1) @ self.text.T
        k = similarity.shape[1]
        voting = max(1, int(k * self.kept))
        log_p = (self.logit_scale * similarity).log_softmax(dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        certain = entropy.argsort(dim=1, stable=True)[:, :voting]
        choice = similarity.argmax(dim=-1)
        votes = torch.zeros_like(similarity[:, 0])
        one = torch.ones_like(similarity[:, :, 0])
        votes.scatter_add_(1, choice.gather(1, certain), one)

        most = votes == votes.amax(dim=1, keepdim=True)
        # Of the crops number m and up, the first that is for such a class; else crop m itself.
        decides = similarity[:, min(voting, k - 1)].masked_fill(~most, -torch.inf).argmax(dim=1)
        if voting < k:
            later = choice[:, voting:]
            for_one = most.gather(1, later)
            first = later.gather(1, for_one.int().argmax(dim=1, keepdim=True)).squeeze(1)
            decides = torch.where(for_one.any(dim=1), first, decides)
        tied = (most.sum(dim=1, keepdim=True) > 1).to(votes.dtype)
        votes.scatter_add_(1, decides.unsqueeze(1), tied)

        of_voting = certain.unsqueeze(-1).expand(-1, -1, similarity.shape[2])
        nearest = similarity.gather(1, of_voting).amax(dim=1)
        least = votes.new_tensor(torch.finfo(votes.dtype).tiny).log()
        return torch.where(votes > 0, votes.log(), least + nearest)
