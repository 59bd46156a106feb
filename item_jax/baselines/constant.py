"""Calls every image real: what accuracy a set gives away for nothing."""

import numpy as np

LEARNS = False


def fit(parts):
    """Learns nothing."""
    del parts


def score(state, part):
    """Returns zeros `[n]`."""
    del state
    return np.zeros(len(part), np.float32)
