"""CNNDet: a ResNet-50 that has seen blur and JPEG (Wang et al., CVPR 2020).

Settings of the authors' repository (CNNDetection): the short side to 256, then blur of
sigma 0 to 3 and JPEG of quality 30 to 100, each with a probability of 0.1 ("Blur+JPEG
(0.1)", which TIDY compares with) or 0.5 (`--method item_jax.methods.cnndet:half`),
random crops of 224 and flips, the last layer from N(0, 0.02), Adam 1e-4 in batches of
64; the learning rate is divided by ten after five epochs without a better accuracy,
down to 1e-6. Scored on the middle 224. The authors start from ImageNet's weights,
`--start`, see `resnet50.py`. Two differences: they held out images of their own, here
it is a tenth of the training images; and crops are from the middle square.
"""

from __future__ import annotations

import dataclasses

from item_jax.methods import _augment, resnet50

METHOD = dataclasses.replace(
    resnet50.METHOD, name="cnndet", augment=_augment.blur_and_jpeg(0.1)
)
half = dataclasses.replace(
    METHOD, name="cnndet-half", augment=_augment.blur_and_jpeg(0.5)
)
small = dataclasses.replace(
    resnet50.small, name="cnndet-small", augment=_augment.blur_and_jpeg(0.1)
)
