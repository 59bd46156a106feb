"""A head with three layers."""

import flax.linen as nn


class ThreeLayers(nn.Module):
    @nn.compact
    def __call__(self, d):
        h = nn.relu(nn.Dense(16)(d))
        h = nn.relu(nn.Dense(16)(h))
        return nn.Dense(2)(h)
