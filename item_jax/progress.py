"""Progress of long work: how much is done, at what rate, how long it will take."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from tqdm import tqdm

QUIET = "ITEM_JAX_QUIET"
"""An environment variable that hides progress, also in programs that are started."""

EVERY = 30  # seconds between two lines of a log
LINE = (
    "{desc}: {n_fmt} of {total_fmt} {unit} ({percentage:.0f}%), {elapsed} so far, "
    "{remaining} left, {rate_fmt}{postfix}"
)


def progress(what: str, total: int, unit: str, *, show: bool = True) -> tqdm:
    """Returns a bar on standard error: live, or a line now and then in a log.

    Args:
      what: the name of the work.
      total: how many units it has.
      unit: what is counted, such as "img".
      show: False for all but one process of many.
    """
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        disable=not show or bool(os.environ.get(QUIET)),
        mininterval=0.5 if live else EVERY,
        bar_format=None if live else LINE,
        file=sys.stderr if live else Lines(sys.stderr),
    )


class Lines:
    """A stream for a log, to which each state of a bar is a line of its own.

    A bar returns to the beginning of its line instead and writes over it.

    Args:
      stream: of the log.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        """Writes what is to be seen of a bar's text, or nothing."""
        line = text.strip()
        if line:
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        """Passes on what was written."""
        self._stream.flush()
