"""DIRE: what a diffusion model cannot reconstruct (Wang et al., ICCV 2023).

A ResNet-50 on error maps |x - x'|, where x' is the image after DDIM to noise and back:
`scripts/reconstruct.py` makes the maps, once, and `--config.data.error_maps=FOLDER`
names them. Settings of the authors' repository: those of `resnet50.py`, from ImageNet's
weights (`--start`), on maps of 256 pixels, at most 400 epochs. Two differences: maps
are PNGs, where the authors store those of JPEG files as JPEG; and a tenth of the
training images decides when to stop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from item_jax.embeddings import Embeddings
from item_jax.methods import _network, resnet50
from item_jax.methods._classifier import Classifier

RECONSTRUCTION = ("id", "revision", "steps", "size", "geometry")
"""What error maps depend on: the model, the timesteps, the square and how it is cut."""


class OnErrorMaps(Classifier):
    """A classifier of error maps; its state says how those were made."""

    def source(self, part: Embeddings) -> Callable[[int], np.ndarray]:
        """Returns what reads map i, uint8 `[H, W, 3]`."""
        return part.error_map

    def fit_seeds(
        self,
        parts: Sequence[Embeddings],
        config: ConfigDict,
        seeds: Sequence[int],
        **others: Any,
    ) -> list[_network.State]:
        """As `Classifier.fit_seeds`."""
        states = super().fit_seeds(parts, config, seeds, **others)
        made = _reconstruction(parts[0])
        return [state | {"reconstruction": made} for state in states]

    def score(self, state: _network.State, part: Embeddings) -> np.ndarray:
        """Returns P(fake), float32 `[n]`.

        Raises:
          ValueError: for maps of another model or other steps than those trained on.
        """
        made, found = state["reconstruction"], _reconstruction(part)
        different = [
            name for name in {**made, **found} if made.get(name) != found.get(name)
        ]
        if different:
            name = different[0]
            raise ValueError(
                f"the error maps were made with {name} {found.get(name)!r}, those "
                f"trained on with {made.get(name)!r}"
            )
        return super().score(state, part)

    def check(self, state: _network.State) -> None:
        """As `Classifier.check`.

        Raises:
          ValueError: naming what does not fit.
        """
        if not isinstance(state.get("reconstruction"), dict):
            raise ValueError("it does not say how the error maps were made")
        super().check(state)


def _reconstruction(part: Embeddings) -> dict[str, Any]:
    """What the maps depend on; not dtype and versions."""
    settings = part.error_maps.settings
    return {name: settings.get(name) for name in RECONSTRUCTION}


def _on_maps(method: Classifier, **changes: Any) -> OnErrorMaps:
    values = {f.name: getattr(method, f.name) for f in dataclasses.fields(Classifier)}
    return OnErrorMaps(**values | {"NEEDS": ("error_maps",)} | changes)


METHOD = _on_maps(
    resnet50.METHOD,
    name="dire",
    DEFAULTS={**resnet50.METHOD.DEFAULTS, "train.epochs": 400},
)
small = _on_maps(resnet50.small, name="dire-small")
