"""`item-jax export`."""

from __future__ import annotations

import argparse

from item_jax.commands import configured, option, say

HELP = "Write a head and its towers as programs that need no item_jax."
EXAMPLE = (
    "item-jax export --head run/head --out exported\n"
    "  item-jax export --head run/head --out exported --onnx --config.dtype=float32"
)
OPTIONS = (
    option("--head", required=True, help="fitted method: folder or Hugging Face id"),
    option("--towers", help="folder, id or ID@REVISION; default: the head's own"),
    option("--out", required=True, metavar="FOLDER", help="new, for the programs"),
    option(
        "--onnx",
        action="store_true",
        help="ONNX beside jax.export, compared by ONNX Runtime; needs item-jax[export]",
    ),
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax import export, hub
    from item_jax.detector import ItemDetector, towers_of

    c = configured(arguments)
    method, place = hub.load(arguments.head)
    dtype = c.dtype if any(n == "dtype" for n, _ in arguments.overrides) else None
    # What can be wrong is found before the towers are loaded.
    export.check(
        method,
        arguments.out,
        dtype or method.embedding["dtype"],
        onnx=arguments.onnx,
    )
    towers = towers_of(method, arguments.towers, dtype, folder=place)
    for warning in ItemDetector(towers, method, c).warnings:
        say(f"warning: {warning}")
    written = export.export(method, towers, arguments.out, onnx=arguments.onnx)
    for name, program in written["programs"].items():
        for kind, parity in program["parity"].items():
            say(
                f"{name}: {', '.join(program['files'][kind])}; differs from the live "
                f"program by {parity:.1e}"
            )
    say(f"wrote {arguments.out}: {method.name}, {written['detector']['range']['text']}")
    return 0
