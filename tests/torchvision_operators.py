"""Lets torchvision be imported beside a CPU build of torch.

torchvision on the package index is built for CUDA. Beside a CPU build of torch its
compiled operators do not load, and the import stops where it describes them. The
processors of chat models and open_clip use only its transforms, which are Python. So
the names of the operators are declared, without code behind them: calling one is still
an error.
"""

import importlib
import sys

from torch import library


def declare() -> None:
    """Imports torchvision; where its operators are missing, declares them first.

    Nothing is declared beside a matching build.
    """
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    operators = library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(
            f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor"
        )
    _kept.append(operators)
    importlib.import_module("torchvision")


# A library that is garbage-collected takes its operators away.
_kept: list[library.Library] = []
