"""A data set: pictures painted when they are asked for, on no disk at all."""

import io

import numpy as np
from PIL import Image

from item_jax import Object, Record

COUNT = 24


class Painted:
    facts = {"captioner": {"id": "the painter"}}

    def __len__(self):
        return COUNT

    def record(self, number):
        label = ("real", "fake")[number % 2]
        split = ("train", "test")[number // 2 % 2]
        objects = (Object("a corner", (0.0, 0.0, 0.5, 0.5), 0.9),)
        return Record(f"{number}.png", label, "painted", "brush", split, "red", objects)

    def read(self, number):
        rng = np.random.default_rng(number)
        picture = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        if number % 2:
            picture[..., 0] = 255
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        return file.getvalue()


def dataset():
    return Painted()
