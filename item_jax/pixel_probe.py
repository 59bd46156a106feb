"""How well 80 numbers of the pixels tell fake from real: DCT and spectrum.

A classifier that sees no content, only statistics of 8 x 8 blocks and of frequencies,
finds what cameras, resizing, JPEG and generators leave behind. Where it does well, so
may a detector that has learned nothing else. NumPy, SciPy and scikit-learn only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.fft import dctn, rfft2
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from item_jax import statistics

BLOCK = 8
"""Side of a DCT block: that of JPEG."""

RINGS = 16
SMALLEST = 2 * RINGS
"""Images of a shorter side have no frequencies for every ring."""

LARGEST = 512
"""Of larger images the middle square of this side is taken, which bounds the time."""

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue: ITU-R BT.601, as in JPEG."""

FLOOR = 1e-3
"""Added before logarithms: a flat image has coefficients of 0. Grey levels."""

FOLDS = 5


def features(image: np.ndarray) -> np.ndarray | None:
    """Describes an image without its content.

    64 logarithms of mean magnitudes of the 8 x 8 DCT coefficients, on the grid that
    JPEG would use, and 16 of the mean power of the spectrum in rings of equal width up
    to the Nyquist frequency.

    Args:
      image: uint8 `[H, W, 3]`, upright.

    Returns:
      float32 `[80]`; None for an image with a side of less than `SMALLEST` pixels.
    """
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        return None
    # The corner stays on the grid of blocks, or JPEG's traces would be blurred.
    top, left = (
        max(0, side - LARGEST) // 2 // BLOCK * BLOCK for side in (height, width)
    )
    part = image[top : top + LARGEST, left : left + LARGEST].astype(np.float32)
    grey = LUMA[0] * part[..., 0] + LUMA[1] * part[..., 1] + LUMA[2] * part[..., 2]
    rows, columns = (side // BLOCK for side in grey.shape)
    blocks = grey[: rows * BLOCK, : columns * BLOCK]
    blocks = blocks.reshape(rows, BLOCK, columns, BLOCK).transpose(0, 2, 1, 3)
    magnitude = np.abs(dctn(blocks, axes=(2, 3), norm="ortho")).mean((0, 1))
    spectrum = np.abs(rfft2(grey - grey.mean())) ** 2 / grey.size
    y = np.fft.fftfreq(grey.shape[0])[:, None]
    x = np.fft.rfftfreq(grey.shape[1])[None]
    ring = np.minimum((np.hypot(y, x) * 2 * RINGS).astype(int), RINGS)  # corners: last
    total = np.bincount(ring.ravel(), spectrum.ravel(), RINGS + 1)[:RINGS]
    power = total / np.bincount(ring.ravel(), minlength=RINGS + 1)[:RINGS]
    return np.log(np.r_[magnitude.ravel(), power] + FLOOR).astype(np.float32)


def probe(x: np.ndarray, labels: np.ndarray) -> dict[str, Any] | None:
    """Judges how well features tell the labels apart.

    Logistic regression on standardised features, by stratified five-fold
    cross-validation: each image by a classifier that has not seen it.

    Args:
      x: float `[n, F]`.
      labels: int `[n]`, real 0 and fake 1.

    Returns:
      `auc`; `interval_95` of these predictions (another choice of folds is not in
      it); 0.5 and (0, 1) if they are all equal; `n_real`, `n_fake`. None with fewer
      than ten images of a label.
    """
    counts = np.bincount(labels, minlength=2)
    if counts.min() < 2 * FOLDS:
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    p = cross_val_predict(model, x, labels, cv=folds, method="decision_function")
    found = statistics.estimate(labels, {"all": np.arange(len(p))}, {"probe": p})
    auc = found.figure(["probe"], "auc", "all")
    return {
        "auc": auc.value if auc else 0.5,
        "interval_95": auc.ends if auc else (0.0, 1.0),
        "n_real": int(counts[0]),
        "n_fake": int(counts[1]),
    }
