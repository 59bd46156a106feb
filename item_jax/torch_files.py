"""Tensors that `torch.save` wrote, read without PyTorch and without running code.

For the weights of rivals, which come as pickles: a state dictionary, or the checkpoint
around one that training code saves. A pickle is a program: this reads the instructions
that such files need and builds dictionaries, lists, numbers, text and tensors. Nothing
is imported or called by name: objects beside the tensors (options, NumPy numbers,
callbacks) are passed over, and a file that names anything else is refused.

    archive.zip  NAME/data.pkl    {"model": {"weight": _rebuild_tensor_v2(...), ...},
                                   "optimizer": {...}, "total_steps": 10}
                 NAME/data/0      the bytes of storage "0"
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from item_jax import files, state_dicts

DTYPES = {
    "torch FloatStorage": np.float32,
    "torch DoubleStorage": np.float64,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": ml_dtypes.bfloat16,
    "torch LongStorage": np.int64,
    "torch IntStorage": np.int32,
    "torch ShortStorage": np.int16,
    "torch CharStorage": np.int8,
    "torch ByteStorage": np.uint8,
    "torch BoolStorage": np.bool_,
}
DICTIONARIES = ("OrderedDict", "defaultdict", "Counter")
"""Of `collections`."""
REBUILD = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
KNOWN = (*(f"collections {n}" for n in DICTIONARIES), REBUILD, PARAMETER, *DTYPES)

PASSED_OVER = (
    *("argparse Namespace", "_codecs encode", "copy_reg _reconstructor"),
    *("collections deque", "torch Size", "torch device", "torch dtype"),
    *("torch float16", "torch float32", "torch float64", "torch bfloat16"),
    *("__builtin__ set", "__builtin__ list", "__builtin__ dict", "__builtin__ tuple"),
    *("__builtin__ int", "__builtin__ float", "__builtin__ str", "__builtin__ object"),
)
"""Names of classes whose objects training code leaves beside the tensors."""

PASSED_OVER_MODULES = (
    *("numpy", "pathlib", "omegaconf", "typing", "enum"),
    *("lightning", "lightning_fabric", "pytorch_lightning"),
)
"""Modules whose objects are passed over, too. None of them is imported."""

LARGEST = 2**32
"""Bytes of a file."""
LARGEST_PICKLE = 2**24
"""Bytes of `data.pkl`, which has some hundred a tensor."""
MOST_ENTRIES = 100_000
MOST_AXES = 32
"""Of a tensor: fewer than NumPy allows."""
LONGEST = 600
"""Characters of a message."""
CONVERT = (
    "convert it with PyTorch, if you trust it: "
    "torch.save(torch.load(FILE, weights_only=False){}, NEW)"
)


@dataclasses.dataclass(frozen=True)
class Saved:
    """Arrays by name, and what was taken from a checkpoint and left, a phrase each."""

    tensors: dict[str, np.ndarray]
    notes: list[str]


class _Global(NamedTuple):
    name: str


@dataclasses.dataclass(eq=False)
class _Object:
    """Something that is passed over: an object of a class, or of a call."""

    name: str


class _Storage(NamedTuple):
    name: str
    dtype: Any
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    pass


def read(path: str | Path, *, skip: Sequence[str] = ()) -> Saved:
    """Reads the tensors of a state dictionary, or of a checkpoint around one.

    A checkpoint is a dictionary such as `{"model": ..., "optimizer": ..., "epoch": 3}`,
    in which the state dictionary is found as `item_jax.state_dicts` describes.

    Args:
      path: of a file that `torch.save` of PyTorch 1.6 or later wrote.
      skip: beginnings of the names of tensors that are not read.

    Returns:
      Arrays of the types, shapes and bytes that were saved, each a copy of its own,
      wherever the tensors lived (`cuda:0`); and notes.

    Raises:
      ValueError: for a damaged or hostile file, or one without a state dictionary.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(f"{size} bytes; at most {LARGEST} are read")
        with zipfile.ZipFile(path) as archive:
            return _read(archive, size, tuple(skip))
    except zipfile.BadZipFile as e:
        raise ValueError(
            f"{path}: not a zip archive as torch.save writes since PyTorch 1.6 ({e}). "
            f"If an older PyTorch wrote it, {CONVERT.format('')}"
        ) from e
    except FileNotFoundError as e:
        raise ValueError(f"no weights {path}") from e
    except (ValueError, OSError, EOFError, RuntimeError, NotImplementedError) as e:
        raise ValueError(f"{path}: {str(e)[:LONGEST]}") from e


def _read(archive: zipfile.ZipFile, size: int, skip: tuple[str, ...]) -> Saved:
    entries = _entries(archive, size)
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} entries named NAME/data.pkl; 1 is needed")
    top = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{top}code/") for name in entries):
        raise ValueError(
            "a TorchScript program, not tensors: save its state with PyTorch: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    order = f"{top}byteorder"
    if order in entries and _bytes(archive, entries, order, 16) != b"little":
        raise ValueError("its numbers are not in little-endian order")
    program = _bytes(archive, entries, pickles[0], LARGEST_PICKLE)
    found, notes = state_dicts.picked(_run(program), _Tensor, _told)
    found, prefixes = state_dicts.without_prefixes(found)
    kept, left = state_dicts.without(found, skip)
    arrays: dict[str, np.ndarray] = {}
    read: dict[_Storage, bytes] = {}
    total = 0
    for name, tensor in kept.items():
        own = tensor.storage
        if own not in read:
            read[own] = _bytes(archive, entries, f"{top}data/{own.name}", LARGEST)
        total += math.prod(tensor.size) * own.dtype.itemsize
        if total > 2 * size:  # some share their storage, but not thousands
            raise ValueError(f"tensors of {total} bytes or more in a file of {size}")
        arrays[name] = _array(name, tensor, read[own])
    return Saved(arrays, notes + prefixes + left)


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    found = archive.infolist()
    if len(found) > MOST_ENTRIES:
        raise ValueError(f"{len(found)} entries; at most {MOST_ENTRIES}")
    entries = {info.filename: info for info in found}
    if len(entries) != len(found):
        raise ValueError("two entries have the same name")
    for name, info in entries.items():
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(
                f"{_told(name)} is compressed or encrypted, which torch.save never does"
            )
    total = sum(max(info.file_size, info.compress_size) for info in found)
    if total > size:
        raise ValueError(f"entries of {total} bytes in a file of {size}")
    return entries


def _bytes(
    archive: zipfile.ZipFile,
    entries: Mapping[str, zipfile.ZipInfo],
    name: str,
    most: int,
) -> bytes:
    if name not in entries:
        raise ValueError(f"{_told(name)} is missing")
    if entries[name].file_size > most:
        raise ValueError(f"{_told(name)} has more than {most} bytes")
    return archive.read(entries[name])


# ------------------------------------------------------------------------ the pickle

_PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUT = {"BINPUT", "LONG_BINPUT"}
_GET = {"BINGET", "LONG_BINGET"}
_APPENDS = {"APPEND", "APPENDS"}
_SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _run(program: bytes) -> Any:
    """Runs the instructions of protocol 2 that `torch.save` writes, and no others."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    argument: Any

    def pop(kind: type | tuple[type, ...] = object) -> Any:
        value = stack.pop()
        if isinstance(value, _Mark) or not isinstance(value, kind):
            raise ValueError(f"its pickle is damaged: {_told(value)} in a wrong place")
        return value

    def pop_to_mark() -> list[Any]:
        values: list[Any] = []
        while not isinstance(stack[-1], _Mark):
            values.append(stack.pop())
        stack.pop()
        return values[::-1]

    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(program)):
            name = opcode.name
            if name == "PROTO":
                if argument != 2:
                    raise ValueError(
                        f"its pickle is of protocol {argument}; 2, which torch.save "
                        f"writes by itself, is read: {CONVERT.format('')}"
                    )
            elif name == "STOP":
                if len(stack) == 1:
                    return pop()
                break
            elif name in _PLAIN:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == "EMPTY_DICT":
                stack.append({})
            elif name == "EMPTY_LIST":
                stack.append([])
            elif name == "MARK":
                stack.append(_Mark())
            elif name == "TUPLE":
                stack.append(tuple(pop_to_mark()))
            elif name in _SHORT_TUPLES:
                values = [pop() for _ in range(_SHORT_TUPLES[name])]
                stack.append(tuple(values[::-1]))
            elif name in _PUT:
                memo[argument] = stack[-1]
            elif name in _GET:
                stack.append(memo[argument])
            elif name == "GLOBAL":
                stack.append(_global(argument, program))
            elif name == "BINPERSID":
                stack.append(_storage(pop(tuple)))
            elif name == "REDUCE":
                arguments = pop(tuple)
                stack.append(_call(pop(_Global), arguments))
            elif name == "NEWOBJ":
                pop(tuple)
                stack.append(_Object(pop(_Global).name))
            elif name in _APPENDS:
                values = pop_to_mark() if name == "APPENDS" else [pop()]
                _append(stack[-1], values)
            elif name == "SETITEM":
                value, key = pop(), pop()
                _set(stack[-1], [key, value])
            elif name == "SETITEMS":
                values = pop_to_mark()
                _set(stack[-1], values)
            elif name == "BUILD":  # `_metadata` of a state dictionary: left out
                pop((dict, tuple))
                if not isinstance(stack[-1], (dict, _Object)):
                    raise ValueError(f"it sets attributes of {_told(stack[-1])}")
            else:
                raise ValueError(
                    f"its pickle has the instruction {name}, which torch.save does not "
                    f"write for tensors: it may be hostile, or {CONVERT.format('')}"
                )
    except (IndexError, KeyError, TypeError, UnicodeDecodeError) as e:
        raise ValueError(f"its pickle is damaged: {type(e).__name__} {e}") from e
    raise ValueError("its pickle is damaged: it ends too early, or not with one value")


def _global(argument: str, program: bytes) -> _Global:
    """Returns a name that may stand in the file; nothing is looked up by it."""
    top = argument.partition(" ")[0].partition(".")[0]
    if argument in KNOWN or argument in PASSED_OVER or top in PASSED_OVER_MODULES:
        return _Global(argument)
    if b"ctorch.nn.modules" in program:
        raise ValueError(
            f"it holds a whole module ({_told(argument.replace(' ', '.'))}), which is "
            f"code, not its tensors: {CONVERT.format('.state_dict()')}"
        )
    raise ValueError(
        f"its pickle names {_told(argument)}, which is not needed for tensors: it may "
        f"be hostile, or {CONVERT.format('[KEY]')}"
    )


def _call(what: _Global, arguments: tuple[Any, ...]) -> Any:
    module, _, kind = what.name.partition(" ")
    if module == "collections" and kind in DICTIONARIES and len(arguments) <= 1:
        first = arguments[0] if arguments else None
        if first is None or isinstance(first, dict | _Global):  # `defaultdict(list)`
            return dict(first) if isinstance(first, dict) else {}
    if what.name == PARAMETER and arguments:
        return arguments[0]
    if what.name == REBUILD and len(arguments) >= 6:
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, _Storage):
            raise ValueError(f"a tensor of {_told(storage)}")
        for numbers in ((offset,), size, stride):
            whole = isinstance(numbers, tuple) and all(type(n) is int for n in numbers)
            if not whole or any(n < 0 for n in numbers):
                raise ValueError(f"a tensor with the numbers {_told(numbers)}")
        return _Tensor(storage, offset, size, stride)
    if what.name in KNOWN:
        raise ValueError(f"its pickle calls {what.name} with {_told(arguments)}")
    return _Object(what.name)


def _storage(identity: tuple[Any, ...]) -> _Storage:
    """("storage", type, name, where it lived, number of elements)."""
    if len(identity) == 5 and identity[0] == "storage":
        _, kind, name, _, count = identity
        typed = isinstance(kind, _Global) and kind.name in DTYPES
        if typed and isinstance(name, str) and type(count) is int and count >= 0:
            return _Storage(name, np.dtype(DTYPES[kind.name]), count)
    raise ValueError(f"its pickle has the storage {_told(identity)}")


def _set(target: Any, values: list[Any]) -> None:
    if len(values) % 2:
        raise ValueError("its pickle is damaged: a key without a value")
    if isinstance(target, _Object):
        return
    if not isinstance(target, dict):
        raise ValueError(f"its pickle is damaged: items of {_told(target)}")
    for key, value in zip(values[::2], values[1::2]):
        if not isinstance(key, (str, int, float, _Global, _Object, type(None))):
            key = _Object(_told(key))  # a tuple, say, which nobody looks up
        if key in target:
            raise ValueError(f"it names {_told(key)} twice")
        target[key] = value


def _append(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, _Object):
        raise ValueError(f"its pickle is damaged: items of {_told(target)}")


def _array(name: str, tensor: _Tensor, data: bytes) -> np.ndarray:
    storage, offset, size, stride = tensor
    told = f"tensor {_told(name)}"
    if len(data) != storage.length * storage.dtype.itemsize:
        raise ValueError(
            f"{told}: storage {_told(storage.name)} has {len(data)} bytes, not "
            f"{storage.length} numbers of {storage.dtype}"
        )
    if len(size) != len(stride) or len(size) > MOST_AXES:
        raise ValueError(f"{told} has sizes {_told(size)} and strides {_told(stride)}")
    count = math.prod(size)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride))
    if count and (last >= storage.length or count > storage.length):
        raise ValueError(
            f"{told} of sizes {_told(size)} and strides {_told(stride)} reaches beyond "
            f"its storage of {storage.length} numbers"
        )
    if storage.dtype == np.bool_ and not set(data) <= {0, 1}:
        raise ValueError(f"{told} has truth values that are neither 0 nor 1")
    if not count:
        if max(size) > LARGEST:
            raise ValueError(f"{told} has sizes {_told(size)}")
        return np.zeros(size, storage.dtype)
    flat = np.frombuffer(data, storage.dtype)[offset:]
    steps = [s * storage.dtype.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(flat, size, steps).copy()


def _told(value: Any, depth: int = 0) -> str:
    """A value for a message: short, and without what could harm a terminal."""
    if isinstance(value, dict):
        return "a dictionary"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, _Tensor):
        return "a tensor"
    if isinstance(value, _Object | _Global):
        return f"an object of {files.printable(value.name.replace(' ', '.'))[:80]}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    if isinstance(value, tuple):
        if depth > 2:
            return "a tuple"
        return f"({', '.join(_told(v, depth + 1) for v in value[:6])})"
    return files.printable(repr(value)[:80])
