"""UniFD's nearest neighbour: is the image closer to real or to fake training images?

d = 1 - cosine of unit image embeddings; fake when the nearest fake is closer than the
nearest real image (Ojha et al., CVPR 2023, Sec. 4). P(fake) = (d_real - d_fake + 2) / 4
has this verdict at 0.5. With k > 1 the distances are means over the k nearest of each
class: `--method item_jax.methods.nearest:k9` (k3, k5 likewise).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from item_jax.embeddings import Embeddings
from item_jax.methods._probe import unit

State = dict[str, Any]


class NearestNeighbours:
    """The method with k neighbours."""

    NEEDS = ("image_emb",)

    def __init__(self, k: int):
        self.k = k

    def fit(self, parts: Sequence[Embeddings], config: ConfigDict) -> State:
        """Keeps the unit embeddings of all training images.

        Raises:
          ValueError: if a class has fewer than k images.
        """
        x = np.concatenate([unit(part.image_emb) for part in parts])
        y = np.concatenate([part.labels for part in parts])
        state = {"k": self.k, "real": x[y == 0], "fake": x[y == 1]}
        self.check(state)
        return state

    def score(self, state: State, part: Embeddings) -> np.ndarray:
        """Returns P(fake), float32 `[n]`."""
        x = unit(np.asarray(part.image_emb, np.float32))
        near = {c: _closest(x, state[c], state["k"]) for c in ("real", "fake")}
        # d_real - d_fake = cosine of the fakes - cosine of the reals, in [-2, 2].
        p = (near["fake"] - near["real"] + 2) / 4
        return np.clip(np.asarray(p), 0, 1)

    def check(self, state: State) -> None:
        """Makes sure that a state read from a file can be scored.

        Raises:
          ValueError: naming what does not fit.
        """
        k, banks = state["k"], (state["real"], state["fake"])
        if type(k) is not int or k < 1:
            raise ValueError(f"k is {k!r}, not a number of neighbours")
        shapes = [list(bank.shape) for bank in banks]
        if any(len(s) != 2 or s[0] < k or s[1] != shapes[0][1] for s in shapes):
            raise ValueError(
                f"real and fake images have shapes {shapes}; two of [n, D] with n of "
                f"at least k = {k} are needed"
            )


@functools.partial(jax.jit, static_argnums=2)
def _closest(x: jax.Array, bank: jax.Array, k: int) -> jax.Array:
    """The mean cosine with the k nearest rows of a bank, `[n, D]` -> `[n]`."""
    cosines = jnp.matmul(x, bank.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.mean(jax.lax.top_k(cosines, k)[0], axis=-1)


k1, k3, k5, k9 = (NearestNeighbours(k) for k in (1, 3, 5, 9))
NEEDS, fit, score, check = k1.NEEDS, k1.fit, k1.score, k1.check
