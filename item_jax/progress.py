"""Progress of long work: how much is done, at what rate, how long it will take."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress(what: str, total: int, unit: str, *, show: bool = True) -> tqdm:
    """Returns a bar on standard error: a live line, or a line now and then in a log.

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
        disable=not show,
        mininterval=0.5 if live else 30,
        file=sys.stderr,
    )
