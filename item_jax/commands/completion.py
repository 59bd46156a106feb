"""`item-jax completion`."""

from __future__ import annotations

import argparse
import importlib

from item_jax import installed
from item_jax.commands import option, say

HELP = "Print a script with which a shell completes commands, options and files."
EXAMPLE = (
    "item-jax completion bash > ~/.local/share/bash-completion/completions/item-jax"
)
OPTIONS = (option("shell", choices=("bash", "zsh", "tcsh")),)

METAVARS = ("CARD", "FILE", "FOLDER", "MODEL", "PATH")
OPTIONS_OF_PATHS = (
    *("--workdir", "--head", "--towers", "--images", "--captions", "--objects"),
    *("--out", "--records", "--json"),
)
"""What takes a path: by the word in the help, or by the option's own name."""


def run(arguments: argparse.Namespace) -> int:
    from item_jax import __main__ as program

    if installed.missing(("shtab",)):
        raise ValueError("needs shtab: pip install 'item-jax[completion]'")
    shtab = importlib.import_module("shtab")
    parser = program.parser()
    [commands] = [a.choices for a in parser._actions if isinstance(a.choices, dict)]
    for command in commands.values():
        for action in command._actions:
            names = set(action.option_strings) & set(OPTIONS_OF_PATHS)
            if names or action.metavar in METAVARS:
                action.complete = shtab.FILE
    say(shtab.complete(parser, arguments.shell))
    return 0
