"""A perturbation: fewer levels of each colour."""

import numpy as np


def perturb(image, severity, generator):
    levels = 2 ** (6 - severity)
    return (image.astype(np.int64) * levels // 256 * (256 // levels)).astype(np.uint8)
