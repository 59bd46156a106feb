"""Training losses for TensorBoard, by tensorboardX, which is without TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from item_jax import installed


def check(folder: str | None) -> None:
    """Makes sure that losses can be written, if a folder is given.

    Raises:
      ValueError: naming what is not installed.
    """
    if folder and installed.missing(("tensorboardX",)):
        raise ValueError("tensorboardX missing: pip install 'item-jax[tensorboard]'")


@contextlib.contextmanager
def losses(folder: str | None) -> Iterator[Callable[[str, int, np.ndarray], None]]:
    """Gives a function `note(name, epoch, losses)`, the losses float `[seeds]`.

    They become the scalars `loss/NAME/seed-K`, K the number of the seed from 0, at the
    step `epoch`. A run that goes on in the same folder adds a file to it, as
    TensorBoard expects.

    Args:
      folder: of the event files; None to note nothing.
    """
    if not folder:
        yield lambda name, epoch, values: None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(folder, write_to_disk=True) as writer:

        def note(name: str, epoch: int, values: np.ndarray) -> None:
            for number, value in enumerate(np.ravel(values)):
                writer.add_scalar(f"loss/{name}/seed-{number}", float(value), epoch)

        yield note
