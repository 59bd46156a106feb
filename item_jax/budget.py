"""How many pixels a process decodes at the same time, so that memory has a bound.

    with IN_FLIGHT.hold(images.count_pixels(data)):
        image = images.decode(data)
        ...

The block lasts until the image is no longer used.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from item_jax.images import MAX_PIXELS


class PixelBudget:
    """Bounds how many pixels the threads of a process decode at the same time.

    A decoded picture, its copies inside Pillow and what is made of it take up to about
    24 bytes a pixel (WebP), so eight threads on eight large files would need 16 GB.
    """

    def __init__(self, pixels: int):
        """Makes a budget; `pixels` may be held at the same time."""
        self.pixels = pixels
        self._held = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Waits until `pixels` fit, and holds them for a `with` block.

        More than the whole budget are held alone. A thread must not wait for anything
        else meanwhile, nor hold twice: then every block ends, and nobody waits for
        ever. Large pictures cannot be overtaken for ever either, since a pipeline
        decodes only so far ahead of the first picture that is missing.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._held or self._held + pixels <= self.pixels
            )
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


IN_FLIGHT = PixelBudget(MAX_PIXELS)
"""The budget that everything that decodes in this process shares."""
