"""torchvision's transforms of PIL images, told anew with Pillow.

torchvision cannot be installed beside the CPU build of torch of the test environment.
What it does with a PIL image is written down here from its source (pytorch/vision,
`torchvision/transforms/functional.py` of 0.15 and later), with Pillow's own operations,
and shares nothing with the package.
"""

from PIL import Image, ImageOps


def resize(picture, size, resample=Image.Resampling.BILINEAR):
    """`Resize(size)`: an int is the short side, a pair (height, width) both.

    `_compute_resized_output_size`: the long side is `int(size * long / short)`.
    """
    if not isinstance(size, int):
        return picture.resize(size[::-1], resample)
    width, height = picture.size
    short, long = (width, height) if width <= height else (height, width)
    new = int(size * long / short)
    if width <= height:
        return picture.resize((size, new), resample)
    return picture.resize((new, size), resample)


def center_crop(picture, size):
    """`CenterCrop(size)`: `center_crop` pads with 0, the odd pixel at the far end, and
    cuts at `int(round((height - size) / 2.0))`, which is even at .5."""
    width, height = picture.size
    if width < size or height < size:
        across, down = max(size - width, 0), max(size - height, 0)
        border = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
        picture = ImageOps.expand(picture, border, fill=0)
        width, height = picture.size
    top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))
    return picture.crop((left, top, left + size, top + size))
