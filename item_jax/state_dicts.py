"""Which of the values that training code saves are the weights of a network.

Training code saves a state dictionary, names and tensors, or a checkpoint around one:
`{"model": ..., "optimizer": ..., "total_steps": 10}`. The state dictionary stands under
one of `WRAPPERS`, or is the only dictionary of tensors there is. Prefixes that wrappers
of networks put before every name are taken off. What was taken is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module"),
    *("params", "weights"),
)
"""Keys under which training code saves a state dictionary, the first that is there
being taken: Lightning's, PyTorch's tutorials', CNNDetection's and its heirs'."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning modules put before every name."""

DEEPEST = 4
"""Dictionaries inside each other in which a state dictionary is looked for."""


def picked(
    found: Any, tensor: type[Any], told: Callable[[Any], str]
) -> tuple[dict[str, Any], list[str]]:
    """Returns the state dictionary of what was saved.

    Args:
      found: what was saved: dictionaries, lists, numbers, tensors.
      tensor: the type of its tensors, whose `size` has a number an axis.
      told: a value as a message shows it.

    Returns:
      Tensors by name, and notes: what was taken and what was left, a phrase each.

    Raises:
      ValueError: if there is none, or several of equal right; saying what there is.
    """
    notes: list[str] = []
    known: dict[int, bool] = {}
    for _ in range(DEEPEST + 1):
        if not isinstance(found, dict):
            raise ValueError(
                f"it holds {told(found)}, not a dictionary of tensors by name"
            )
        if _is_optimizer(found):
            raise ValueError("it holds the state of an optimizer and no weights")
        holders = [k for k, value in found.items() if _holds(value, tensor, known)]
        named = [key for key in WRAPPERS if key in holders]
        own = {key: v for key, v in found.items() if isinstance(v, tensor)}
        if named or (not own and len(holders) == 1):
            key = (named or holders)[0]
            notes.append(_note("took", [key], told))
            if len(found) > 1:
                notes.append(_note("left", [k for k in found if k != key], told))
            found = found[key]
        elif own:
            break
        elif holders:
            raise ValueError(
                f"it holds {len(holders)} dictionaries of tensors: "
                f"{', '.join(map(told, holders[:6]))}. Save the one you mean: "
                f"torch.save(torch.load(FILE)[{told(holders[0])}], NEW)"
            )
        else:
            what = ", ".join(f"{told(k)} is {told(v)}" for k, v in found.items())
            raise ValueError(
                f"it holds no tensors by name: {what[:300] or 'it is empty'}"
            )
    else:
        raise ValueError(f"it holds more than {DEEPEST} dictionaries in each other")
    unnamed = [key for key in own if not isinstance(key, str)]
    if unnamed:
        raise ValueError(
            f"its tensors have no names: one is under {told(unnamed[0])}, where a "
            "state dictionary has text such as 'fc.weight'"
        )
    others = [key for key in found if key not in own]
    if others:
        notes.append(_note("left", others, told))
    return own, notes


def _holds(value: Any, tensor: Any, known: dict[int, bool], depth: int = 1) -> bool:
    """Whether a dictionary, or one in it, has a tensor that is more than a number.

    `known` has the answers by the dictionary's `id`, so that each is walked once.
    """
    if not isinstance(value, dict) or depth > DEEPEST or _is_optimizer(value):
        return False
    if id(value) not in known:
        known[id(value)] = False  # of one that holds itself
        known[id(value)] = any(
            (isinstance(own, tensor) and len(own.size) > 0)
            or _holds(own, tensor, known, depth + 1)
            for own in value.values()
        )
    return known[id(value)]


def _is_optimizer(value: Mapping[Any, Any]) -> bool:
    return "param_groups" in value and "state" in value


def _note(what: str, keys: Sequence[Any], told: Callable[[Any], str]) -> str:
    shown = ", ".join(map(told, keys[:6]))
    return f"{what} {shown}" + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")


def without_prefixes(named: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Takes off what training wrappers put before every name, and says so.

    Args:
      named: values by name.

    Returns:
      The values under the shorter names, in their order, and a note a prefix.
    """
    found, notes = dict(named), []
    while prefix := _common(found):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
        notes.append(f"without the prefix {prefix!r}")
    return found, notes


def _common(names: Iterable[str]) -> str:
    names = list(names)
    for prefix in PREFIXES:
        if names and all(n.startswith(prefix) and n != prefix for n in names):
            return prefix
    return ""


def without(
    named: Mapping[str, Any], skip: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Leaves out values by the beginnings of their names, and says so.

    Args:
      named: values by name.
      skip: beginnings of names.

    Returns:
      The others, and a note for each beginning that was met.
    """
    kept = {n: v for n, v in named.items() if not n.startswith(tuple(skip))}
    counts = {start: sum(n.startswith(start) for n in named) for start in skip}
    notes = [f"left {count} tensors {s}*" for s, count in counts.items() if count]
    return kept, notes
