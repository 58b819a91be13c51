"""A head that keeps state, like methods that see the test images as a stream."""

import torch

from src.heads.zero_shot import ZeroShot


class Growing(ZeroShot):
    """Keeps the images that it has seen, and shifts the features of the next ones by them."""

    def __init__(self, text, logit_scale):
        super().__init__(text, logit_scale)
        self.seen = []

    def reset(self):
        self.seen = []

    def forward(self, global_features):
        self.seen.append(global_features)
        drift = torch.cat(self.seen).mean(dim=0)
        return super().forward(global_features + len(self.seen) * drift)
