"""Choosing by name: from a table of ours, or an importable module of your own.

Standard library only. One resolver serves every table of the package, so that whatever
can be a file here can also be `package.module` or `package.module:name` from outside:

    resolve("misalignment", "itme", MISALIGNMENTS)
    # ValueError: unknown misalignment 'itme'; allowed: item, tidy. Did you mean 'item'?
    resolve("misalignment", "mine.ideas:squared", MISALIGNMENTS)
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def nearest(name: object, allowed: Iterable[object]) -> str:
    """Returns the end of an error message: what is allowed, and the closest name.

    Args:
      name: the name that was found.
      allowed: the names that exist.
    """
    names = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"allowed: {', '.join(names) or 'none'}.{hint}"


def check(what: str, name: Any, allowed: Iterable[object]) -> Any:
    """Returns `name` if it is allowed.

    Args:
      what: what is chosen, such as `"views.geometry"`, for the message.
      name: the choice.
      allowed: the names that exist.

    Raises:
      ValueError: if it is not, with what is allowed and the nearest name.
    """
    allowed = list(allowed)
    if name not in allowed:
        raise ValueError(f"unknown {what} {name!r}; {nearest(name, allowed)}")
    return name


def modules(package: str) -> list[str]:
    """Returns the names of the modules of a package, sorted; `_private` ones are not.

    Args:
      package: its dotted name.
    """
    path = importlib.import_module(package).__path__
    found = (m.name for m in pkgutil.iter_modules(path))
    return sorted(name for name in found if not name.startswith("_"))


def resolve(
    what: str,
    name: Any,
    table: Mapping[str, Any] | str,
    *,
    needs: Sequence[str] = (),
    attribute: str = "",
    inside: str = "",
) -> Any:
    """Finds what a name refers to.

    Args:
      what: the kind of thing, such as `"misalignment"`, for messages.
      name: a name of `table`; `package.module` or `package.module:name`, imported with
        the current folder last on the path; or the thing itself, which is returned.
      table: our names and what they refer to; or the dotted name of a package
        whose modules are the choices.
      needs: the attributes it must have.
      attribute: of an outside module given without `:name`; "" is the module itself.
      inside: an attribute that is taken instead of the thing where it has it.

    Raises:
      ValueError: for an unknown name, with the nearest; for a module that cannot be
        imported or lacks something, with what was tried.
    """

    def complete(thing: Any) -> Any:
        found = getattr(thing, inside, thing) if inside else thing
        return _complete(what, found, repr(name), needs)

    if not isinstance(name, str):
        return complete(name)
    known = modules(table) if isinstance(table, str) else list(table)
    if name in known:
        if isinstance(table, str):
            return complete(importlib.import_module(f"{table}.{name}"))
        return table[name]
    path, _, member = name.partition(":")
    bare = "." not in path and not member
    if not path or (bare and not importable(path)):
        raise ValueError(
            f"unknown {what} {name!r}; {nearest(name, known)} A module of your own is "
            "given as package.module or package.module:name"
        )
    found = _import(what, name, path, known)
    member = member or attribute
    for part in filter(None, member.split(".")):
        if not hasattr(found, part):
            raise ValueError(
                f"{what} {name!r}: {path} has no {part!r}; {nearest(part, dir(found))}"
            )
        found = getattr(found, part)
    return complete(found)


def importable(path: str) -> bool:
    """Whether there is a module `path`; the packages above it are imported."""
    _look_here()
    try:
        return importlib.util.find_spec(path) is not None
    except (ImportError, ValueError):
        return False


def _import(what: str, name: str, path: str, known: Sequence[str]) -> Any:
    _look_here()
    try:
        return importlib.import_module(path)
    except Exception as e:  # whatever somebody's own module may raise
        raise ValueError(
            f"{what} {name!r}: tried to import {path}: {type(e).__name__}: {e}; "
            f"{nearest(name, known)}"
        ) from e


def _look_here() -> None:
    """Puts the current folder at the end of the import path, where it shadows nothing.

    `python -m` does the same, at the front; an installed program does not.
    """
    if "" not in sys.path:
        sys.path.append("")


def _complete(what: str, thing: Any, name: str, needs: Sequence[str]) -> Any:
    missing = [attribute for attribute in needs if not hasattr(thing, attribute)]
    if missing:
        raise ValueError(
            f"{what} {name} lacks {', '.join(missing)}; a {what} has {', '.join(needs)}"
        )
    return thing
