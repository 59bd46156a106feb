"""DIRE: what a diffusion model cannot reconstruct (Wang et al., ICCV 2023).

A ResNet-50 on error maps |x - x'|, where x' is the image after DDIM to noise and back:
`scripts/reconstruct.py` makes the maps, once, and `--config.data.error_maps=FOLDER`
names them. Settings of the authors' repository: those of `resnet50.py`, from ImageNet's
weights (`--start`), on maps of 256 pixels, at most 400 epochs; scored on the middle 224
of a map. `--weights` takes what their code saves, such as `lsun_adm.pth`; the file does
not say which diffusion model its maps are of. Differences: maps are PNGs, where the
authors store those of JPEG files as JPEG; validation images or, without any, a tenth of
the training images decide when to stop; BatchNorm's running variance is Flax's, without
Bessel's correction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from item_jax.embeddings import Embeddings
from item_jax.methods import _network, resnet50
from item_jax.methods._classifier import Classifier

RECONSTRUCTION = ("id", "revision", "steps", "size", "geometry")
"""What error maps depend on: the model, the timesteps, the square and how it is cut."""

AUTHORS = {"steps": 20, "size": 256, "geometry": "short_side"}
"""Of the authors' maps (`compute_dire.sh`: `ddim20`, `image_size 256`)."""


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
        different = [name for name in made if made[name] != found[name]]
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
        made = state.get("reconstruction")
        if not isinstance(made, dict) or not set(AUTHORS) <= set(made):
            raise ValueError(
                "it does not say how the error maps were made: reconstruction is "
                f"{made!r}, without all of {', '.join(AUTHORS)}; train it again"
            )
        super().check(state)


def _reconstruction(part: Embeddings) -> dict[str, Any]:
    """What the maps depend on; not dtype and versions."""
    settings = part.error_maps.settings
    return {name: settings.get(name) for name in RECONSTRUCTION}


def _on_maps(method: Classifier, **changes: Any) -> OnErrorMaps:
    values = {f.name: getattr(method, f.name) for f in dataclasses.fields(Classifier)}
    return OnErrorMaps(**values | {"NEEDS": ("error_maps",)} | changes)


def from_weights(tensors: Mapping[str, np.ndarray]) -> _network.State:
    """Returns the state that the authors' weights are.

    They do not say which diffusion model the maps are of; steps, size and geometry are
    those of the authors' program.

    Args:
      tensors: under torchvision's names.

    Raises:
      ValueError: for tensors that are missing, of another shape, or of no layer.
    """
    assert resnet50.METHOD.from_weights is not None
    state = resnet50.METHOD.from_weights(tensors)
    return state | {"reconstruction": dict(AUTHORS)}


METHOD = _on_maps(
    resnet50.METHOD,
    name="dire",
    from_weights=from_weights,
    DEFAULTS={**resnet50.METHOD.DEFAULTS, "train.epochs": 400},
)
small = _on_maps(resnet50.small, name="dire-small")
