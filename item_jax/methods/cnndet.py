"""CNNDet: a ResNet-50 that has seen blur and JPEG (Wang et al., CVPR 2020).

Training is that of the authors' repository (CNNDetection): the short side to 256, then
blur of sigma 0 to 3 and JPEG of quality 30 to 100, each with a probability of 0.1
("Blur+JPEG (0.1)", which TIDY compares with) or 0.5 (`:half`), random crops of 224 and
flips, the last layer from N(0, 0.02), Adam 1e-4 in batches of 64; the learning rate is
divided by ten after five epochs without a better accuracy, down to 1e-6. The authors
start from ImageNet's weights, `--start`, see `resnet50.py`.

Their figures are of pictures that are not resized. They print two; a third cut is the
one of their validation:

    cnndet                            the middle 224, black around smaller pictures:
                                      `eval.py`, and the tables of the paper
    item_jax.methods.cnndet:whole     the whole picture: `eval.py --no_crop`, `demo.py`
    item_jax.methods.cnndet:resized   the short side to 256, the middle 224: validation

Differences: training ends after 100 epochs at the latest, theirs after 10,000;
validation images or, without any, a tenth of the training images decide when to stop;
theirs are blurred (sigma 1.5) and compressed (quality 65) with the same probability,
ours are not; random crops are from the middle square of the resized picture,
theirs from anywhere; JPEG is our own coder, theirs is OpenCV's or Pillow's, see
`_augment.py`; BatchNorm's running variance is Flax's, without Bessel's correction.
`--weights` takes `blur_jpg_prob0.1.pth` and `blur_jpg_prob0.5.pth` of their repository,
and what their code saves.
"""

from __future__ import annotations

import dataclasses
import functools

from item_jax import views
from item_jax.methods import _augment, resnet50

CROP = 224
"""Side of the middle square that is scored."""

METHOD = dataclasses.replace(
    resnet50.METHOD,
    name="cnndet",
    augment=_augment.blur_and_jpeg(0.1),
    view=functools.partial(views.center_crop, size=CROP),
)
half = dataclasses.replace(
    METHOD, name="cnndet-half", augment=_augment.blur_and_jpeg(0.5)
)
whole = dataclasses.replace(
    METHOD, name="cnndet-whole", view=lambda image: image, batches=(1,)
)
resized = dataclasses.replace(METHOD, name="cnndet-resized", view=None)
small = dataclasses.replace(
    resnet50.small,
    name="cnndet-small",
    augment=_augment.blur_and_jpeg(0.1),
    view=functools.partial(views.center_crop, size=resnet50.small.crop),
)
