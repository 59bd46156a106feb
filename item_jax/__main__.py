"""The command line: `item-jax demo | index | audit | embed | train | evaluate | ...`.

It parses and calls; what a command does is in `item_jax.commands`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from item_jax import __version__, choices, commands, config, progress

_CONFIG_OPTIONS = """
Fields of the configuration are set by {example} and the like; this command uses
{fields} (`item-jax config` prints all of them with meanings and choices).
"""

_TALK = (
    commands.option(
        "--verbose", action="store_true", help="what libraries log, and tracebacks"
    ),
    commands.option("--quiet", action="store_true", help="no progress"),
)

_EXPECTED = (ValueError, OSError, RuntimeError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit status: 0, 1 (some images failed), 2 (an error, in one sentence), 130
      (interrupted) or 141 (the reader of a pipe went away).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # a program: let a termination clean up as Ctrl-C does
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not words:
        parser().print_help(sys.stderr)
        return 2
    modules = _modules()
    command = next((word for word in words if not word.startswith("-")), "")
    try:
        words, overrides = _split_overrides(words)
        if command:
            choices.check("command", command, modules)
            _refuse_unknown(command, modules[command], words, overrides)
        arguments = parser().parse_args(words)
        arguments.overrides = overrides
        _talk(arguments)
        if getattr(arguments, "distributed", False):
            from item_jax import sharding

            sharding.initialize()
        return modules[arguments.command].run(arguments) or 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except _EXPECTED as e:
        if os.environ.get("ITEM_JAX_TRACEBACK"):
            raise
        print(f"item-jax {command}: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nitem-jax {command}: stopped", file=sys.stderr)
        return 130


def _modules() -> dict[str, ModuleType]:
    return {
        name: importlib.import_module(f"item_jax.commands.{name.replace('-', '_')}")
        for name in commands.NAMES
    }


def _talk(arguments: argparse.Namespace) -> None:
    """Says more or less, here and in the programs that a command starts."""
    if arguments.quiet:
        os.environ[progress.QUIET] = "1"
    if arguments.verbose:
        from absl import logging as absl_logging

        os.environ["ITEM_JAX_TRACEBACK"] = "1"
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info")
        absl_logging.set_verbosity(absl_logging.INFO)  # Orbax logs there
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


class _Parser(argparse.ArgumentParser):
    """One whose errors end with what to type instead."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}\n{self.epilog}\n")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = _Parser(
        prog="item-jax",
        description="Detect AI-generated images by image-text misalignment (ITEM, "
        "TIDY), in JAX.",
        epilog="Begin with: item-jax demo\n"
        "An example of each command: item-jax COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in _modules().items():
        fields = config.READS.get(name)
        about = ""
        if fields and name != "config":
            about = _CONFIG_OPTIONS.format(
                example=_example(name), fields=", ".join(fields)
            )
            about = f"\n{textwrap.fill(about.strip(), 79, break_on_hyphens=False)}\n"
        p = subparsers.add_parser(
            name,
            help=module.HELP,
            description=f"{module.HELP}\n{about}",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if fields:
            p.add_argument(
                "--config", metavar="CARD", help="run card: item_vitl14, or a file"
            )
        for names, settings in (*module.OPTIONS, *_TALK):
            p.add_argument(*names, **settings)
    return parser


def _example(command: str) -> str:
    """An override that the command takes, such as the number of epochs."""
    used = config.used_by(command, list(config.FIELDS))
    told = [name for name in used if config.FIELDS[name].default not in ("", (), 0)]
    name = next(n for n in ("train.epochs", *told, *used) if n in used)
    return f"--config.{name}={config.FIELDS[name].default}"


def _split_overrides(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.field=value` and `--config.field value` out of the words."""
    rest, found = [], []
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--config."):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            if not words:
                raise ValueError(f"{word} needs a value: {word}=VALUE")
            value = words.pop(0)
        found.append((name, value))
    return rest, found


def _refuse_unknown(command, module, words, overrides) -> None:
    """Names the nearest option, also when a required one is missing."""
    known = {name for names, _ in (*module.OPTIONS, *_TALK) for name in names}
    known |= {"--help", "-h"} | ({"--config"} if command in config.READS else set())
    options = sorted(name for name in known if name.startswith("--"))
    if overrides and command not in config.READS:
        raise ValueError(f"takes no --config option such as --config.{overrides[0][0]}")
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and name != "--" and name not in known:
            raise ValueError(
                f"unknown option {name!r}; {choices.nearest(name, options)}"
            )


if __name__ == "__main__":
    sys.exit(main())
