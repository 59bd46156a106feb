"""A detector as programs that need no item_jax: `jax.export`, and ONNX.

    image.jaxexport  image.safetensors   uint8 [B, S, S, 3] -> float32 [B, D]
    text.jaxexport   text.safetensors    int32 [B, T] -> float32 [B, D]
    head.jaxexport   head.safetensors    the embeddings of B images -> P(fake) [B]
    image.onnx  text.onnx  head.onnx     the same, their weights inside
    export.json                          what they take, rest on, and how exact they are

A `.jaxexport` is lowered for CPU, CUDA and TPU at once, and is a function of its
weights, a flat dictionary as safetensors returns it, and its inputs; B is free. Every
program is run before its folder is finished, and compared with what `ItemDetector`
computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from item_jax import __version__, files, heads, misalignment, model_card, onnx_files
from item_jax.embeddings import Embeddings
from item_jax.fitted import FittedMethod
from item_jax.towers.towers import Towers

SCHEMA = "item-export/1"
PLATFORMS = ("cpu", "cuda", "tpu")

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
"""Largest difference from the live program that is written: of unit embeddings and of
P(fake), by the dtype of the towers. float32 is the promise of CONTRIBUTING.md; bfloat16
has 8 bits, and other compilers round elsewhere."""

Sizes = Mapping[str, tuple[tuple[str | int, ...], Any]]


@dataclasses.dataclass(frozen=True)
class Program:
    """A function to be written.

    Attributes:
      name: of its files.
      fn: `fn(params, *inputs)`, `params` a flat dictionary of arrays.
      params: its weights.
      inputs: name -> (shape, dtype); a letter in a shape stands for any number from 1.
      output: its name and shape, for `export.json`.
      example: an array for each input.
      expected: what the live program makes of them, float `[N, ...]`.
      unit: whether rows are compared as unit vectors.
    """

    name: str
    fn: Callable[..., jax.Array]
    params: dict[str, np.ndarray]
    inputs: Sizes
    output: tuple[str, tuple[str | int, ...]]
    example: tuple[np.ndarray, ...]
    expected: np.ndarray
    unit: bool


def export(
    method: FittedMethod, towers: Towers, folder: str | Path, *, onnx: bool = False
) -> dict[str, Any]:
    """Writes head, image path and text path, each compared with the live program.

    Args:
      method: fitted, of ITEM's form: `item`, `tidy`, an ablation, one modality alone.
      towers: those it was fitted on.
      folder: is made; `export.json` comes last.
      onnx: whether to write ONNX too, which takes float32 towers and
        item-jax[export].

    Returns:
      The content of `export.json`: `programs` {name: {"inputs", "output", "files",
      "parity"}}, where parity is the largest absolute difference from the live program,
      {"jax", "onnx"}, on this machine's device; `detector`, what inputs mean and a
      verdict rests on.

    Raises:
      ValueError: for a method of another form, a folder that is there, or a program
        that does not compute what the live one does, with the figures.
    """
    folder = Path(folder)
    check(method, folder, towers.dtype, onnx=onnx)
    image, text = _image(towers), _text(towers)
    programs = [image, text, _head(method, image.expected, text.expected)]
    limit = TOLERANCE[towers.dtype]
    described = {}
    for program in programs:
        made: dict[str, list[str]] = {}
        parity: dict[str, float] = {}
        made["jax"] = [f"{program.name}.jaxexport", f"{program.name}.safetensors"]
        artefact = _lowered(program).serialize()
        _write(folder / made["jax"][0], bytes(artefact))
        _write(folder / made["jax"][1], save(program.params))
        parity["jax"] = _difference(program, _run(folder, program))
        if onnx:
            made["onnx"] = [f"{program.name}.onnx"]
            path = folder / made["onnx"][0]
            onnx_files.write(path, program.fn, program.params, program.inputs)
            found = onnx_files.run(path, program.example)
            parity["onnx"] = _difference(program, found)
        for kind, value in parity.items():
            if not value <= limit:  # NaN too
                raise ValueError(
                    f"{folder}: {program.name} ({kind}) differs from the live program "
                    f"by {value:.2e}, more than {limit:.0e}: do not use it"
                )
        described[program.name] = {
            "inputs": {
                name: {"shape": list(shape), "dtype": np.dtype(dtype).name}
                for name, (shape, dtype) in program.inputs.items()
            },
            "output": {"name": program.output[0], "shape": list(program.output[1])},
            "files": made,
            "parity": parity,
        }
    tower = method.embedding["tower"]
    content = {
        "schema": SCHEMA,
        "item_jax": __version__,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
        "compared_on": jax.default_backend(),
        "programs": described,
        "detector": {
            "towers": model_card.short_name(tower["name"]),
            "checkpoint_sha256": tower["checkpoint_sha256"],
            "dtype": towers.dtype,
            "views": method.embedding["views"],
            "range": method.range(),
        },
    }
    files.write_json(folder / "export.json", content)
    return content


def check(
    method: FittedMethod, folder: str | Path, dtype: str, *, onnx: bool = False
) -> None:
    """Refuses what cannot be exported.

    Args:
      method, folder, onnx: as for `export`.
      dtype: of the towers.

    Raises:
      ValueError: see `export`; or if a package is missing.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; delete it, or choose another --out")
    if not {"misalignment", "head"} <= set(method.state):
        raise ValueError(
            f"method {method.name!r} is not a head on a misalignment; item, tidy, "
            "image_only, text_only and their ablations can be exported"
        )
    onnx_files.check_installed(onnx)
    if onnx and dtype != "float32":
        raise ValueError(
            f"ONNX Runtime has no {dtype} towers on a CPU: --config.dtype=float32"
        )


# ---------------------------------------------------------------------- the programs

TEXTS = ("a dog on a beach", "a photo of two red cars in front of an old house", "sky")
VIEWS = 3


@dataclasses.dataclass(frozen=True)
class _AnyDevice:
    """Asks a tower for what every device can run, and not for a kernel of one."""

    platform: str = "any"
    device_kind: str = "any device"


def _image(towers: Towers) -> Program:
    side, wide = towers.image_size, towers.embed_dim
    views = np.random.default_rng(0).integers(0, 256, (VIEWS, side, side, 3), np.uint8)
    return Program(
        "image",
        _unflattened(towers.function("vision", _AnyDevice())),
        _flat(towers.params["vision"]),
        {"views": (("b", side, side, 3), np.uint8)},
        ("embedding", ("b", wide)),
        (views,),
        towers.encode_image(views),
        unit=True,
    )


def _text(towers: Towers) -> Program:
    tokens = towers.full_length(TEXTS)
    return Program(
        "text",
        _unflattened(towers.function("text", _AnyDevice())),
        _flat(towers.params["text"]),
        {"tokens": (("b", tokens.shape[1]), np.int32)},
        ("embedding", ("b", towers.embed_dim)),
        (tokens,),
        towers.encode_text(list(TEXTS)),
        unit=True,
    )


def _head(method: FittedMethod, image: np.ndarray, text: np.ndarray) -> Program:
    """From the embeddings of images, and of as many objects for each, to P(fake)."""
    c, settings = method.state["misalignment"], method.state["head"]
    module = heads.make(settings["name"], hidden_dim=settings["hidden_dim"])
    temperature = (method.calibration or {}).get("temperature") or 1.0

    each = misalignment.get(c["name"])

    def fn(params, image_emb, text_emb, object_emb, phrase_emb, present):
        # `misalignment.compute` with as many rows of objects for every image.
        d_g = each(image_emb, text_emb)
        rows = each(object_emb, phrase_emb) * present[..., None]
        count = jnp.sum(present, axis=1, keepdims=True)
        without = d_g if c["no_objects"] == "global" else jnp.zeros_like(d_g)
        d_l = jnp.where(
            count > 0, jnp.sum(rows, axis=1) / jnp.maximum(count, 1), without
        )
        levels = (c["w1"] * d_g, c["w2"] * d_l)
        d = jnp.concatenate(levels, -1) if c["levels"] == "concat" else sum(levels)
        tree = flax.traverse_util.unflatten_dict(params, sep=".")
        logits: Any = module.apply({"params": tree}, d)
        return heads.p_fake(logits / temperature)

    n, wide = image.shape
    counts = np.arange(n) % 3  # none, one, two
    present = (np.arange(2) < counts[:, None]).astype(np.float32)
    # Any embeddings do; those of the towers are of the right size.
    objects = np.stack([image[::-1], np.roll(image, 1, 0)], 1)
    phrases = np.stack([np.roll(text, 2, 0), text[::-1]], 1)
    of = [np.arange(count) + 2 * i for i, count in enumerate(counts)]
    index = np.concatenate(of).astype(int)
    live = Embeddings(
        [{"key": str(i), "label": ""} for i in range(n)],
        image,
        text,
        objects.reshape(-1, wide)[index],
        phrases.reshape(-1, wide)[index],
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )
    rows, more = (("b", wide), np.float32), (("b", "k", wide), np.float32)
    return Program(
        "head",
        fn,
        _flat(method.state["params"]),
        {"image_emb": rows, "text_emb": rows, "object_emb": more, "phrase_emb": more}
        | {"present": (("b", "k"), np.float32)},
        ("p_fake", ("b",)),
        (image, text, objects, phrases, present),
        method.score(live),
        unit=False,
    )


def _flat(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(tree, sep=".")
    # safetensors writes the memory of an array, whatever its strides.
    return {k: np.asarray(value, order="C") for k, value in sorted(flat.items())}


def _unflattened(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda params, rows: fn(
        flax.traverse_util.unflatten_dict(params, sep="."), rows
    )


# ------------------------------------------------------------------------- jax.export


def _lowered(program: Program) -> jax.export.Exported:
    letters = sorted(
        {n for shape, _ in program.inputs.values() for n in shape if isinstance(n, str)}
    )
    sizes = dict(zip(letters, jax.export.symbolic_shape(", ".join(letters))))
    arguments = [
        jax.ShapeDtypeStruct(
            tuple(sizes[n] if isinstance(n, str) else n for n in shape), dtype
        )
        for shape, dtype in program.inputs.values()
    ]
    params = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype)
        for name, value in program.params.items()
    }
    return jax.export.export(jax.jit(program.fn), platforms=PLATFORMS)(
        params, *arguments
    )


def _run(folder: Path, program: Program) -> np.ndarray:
    """Runs what was written, read back from its files."""
    from safetensors.numpy import load_file

    stored = (folder / f"{program.name}.jaxexport").read_bytes()
    fn = jax.export.deserialize(bytearray(stored))
    params = load_file(folder / f"{program.name}.safetensors")
    return np.asarray(fn.call(params, *program.example))


def _difference(program: Program, found: np.ndarray) -> float:
    """The largest absolute difference from the live program."""
    expected = np.asarray(program.expected, np.float32)
    found = np.asarray(found, np.float32)
    if program.unit:
        expected, found = (
            x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (expected, found)
        )
    return float(np.abs(found - expected).max())


def _write(path: Path, content: bytes) -> None:
    with files.atomic_file(path, binary=True) as f:
        f.write(content)
