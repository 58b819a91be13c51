"""PointCLIP's inter-view adapter (Zhang et al., CVPR 2022, section 3.3)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from src.errors import UserError
from src.heads.base import Head


class PointClip(Head):
    """Add to each view's feature what a bottleneck makes of all views together.

    With `f_v` `[d]` the global feature of view v as CLIP gives it, `T` `[c, d]` the normalised text
    features, r the residual ratio, `[;]` concatenation over the views, and learned view weights a:

        global  g = relu(norm(W1 [norm(a_v f_v); ...]))            W1 [d, v d]        [d]
        views   h = relu(W3 relu(W2 g))            W2 [d, d],  W3 [v d, d]            [v d]
        F = r · h + (1 - r) · [f_v; ...]
        logits of view v = scale · √V · F_v Tᵀ / ‖F‖

    `norm` is batch normalisation, over the features of all views at first. Layers, biases, dropout
    (after either norm), initialisation and the joint length ‖F‖ are the release's, which the paper
    leaves open; the mean of the logits over the views is the release's output.
    """

    carries_over = True
    given = ("text", "logit_scale", "n_views")
    depth_maps = "joint"
    text: Tensor

    def __init__(
        self,
        text: Float[Tensor, "c d"],
        logit_scale: float,
        n_views: int,
        residual_ratio: float,
        fusion_init: float,
        dropout: float,
        label_smoothing: float,
    ) -> None:
        """Draw the adapter's weights from torch's global generator.

        Args:
            text: the class text features.
            logit_scale: the factor on cosine similarities.
            n_views: the number of views.
            residual_ratio: r, from 0 (plain CLIP) to 1.
            fusion_init: the initial value of each view's a.
            dropout: the share of features that training drops.
            label_smoothing: the share of the target that training spreads over the other classes.
        """
        super().__init__()
        self.register_buffer("text", F.normalize(text, dim=-1))
        self.logit_scale = logit_scale
        self.residual_ratio = residual_ratio
        self.label_smoothing = label_smoothing
        width = text.shape[1]
        self.fusion = nn.Parameter(torch.full((n_views,), fusion_init))
        self.norm = nn.BatchNorm1d(width)
        self.to_global = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(n_views * width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.to_views = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_views * width), nn.ReLU()
        )

    def loss(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compute the cross-entropy with the release's smoothed labels.

        With e the label smoothing, a target is 1 - e for the object's class, and e / (c - 1) for
        each other one. Torch's own smoothing would give a part of e to the object's class as well.
        """
        classes, e = logits.shape[1], self.label_smoothing
        own = F.one_hot(label, classes)
        return F.cross_entropy(logits, own * (1 - e) + (1 - own) * (e / (classes - 1)))

    def forward(self, global_features: Float[Tensor, "n v d"]) -> Float[Tensor, "n v c"]:
        """Compute the logits of each view.

        Raises:
            UserError: a training batch is a single object, which batch normalisation cannot use.
        """
        n, views, _ = global_features.shape
        if self.training and n == 1:
            raise UserError(
                "a training batch of one point cloud cannot be normalised: give more shots, or "
                "method.training.drop_last=true."
            )
        weighted = global_features * self.fusion.unsqueeze(-1)
        normed = self.norm(weighted.flatten(end_dim=1)).view(n, -1)
        adapted = self.to_views(self.to_global(normed)).view_as(global_features)
        r = self.residual_ratio
        blended = r * adapted + (1 - r) * global_features
        joint = F.normalize(blended.flatten(start_dim=1), dim=-1).view_as(blended)
        return self.logit_scale * views**0.5 * joint @ self.text.T
