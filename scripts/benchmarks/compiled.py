"""Towers and heads compiled for TPUs and GPUs that are not here.

The compilers run on any x86-64 Linux machine: libtpu brings the TPU's, the wheels of
`jax[cuda12]` the GPU's. What they say of a program is their own cost model, an estimate
and no measurement.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.chips import (
    COLLECTIVE,
    CUDNN,
    GPUS,
    TPUS,
    bytes_needed,
    cycles,
    topology,
)
from item_jax import config as config_lib
from item_jax import testing, training_loop
from item_jax.towers import attention, clip_vit, outputs, transformer
from item_jax.towers.transformer import TransformerConfig

PREFERRED = "preferred"


def run(arguments) -> Iterator[dict]:
    """Yields a row for each program, target and batch size."""
    found = False
    for target in arguments.targets:
        kind = target.partition(":")[0]
        needs = "libtpu" if kind in TPUS else "jax_cuda12_plugin"
        if kind not in TPUS and kind not in GPUS:
            known = ", ".join([*TPUS, *GPUS])
            raise SystemExit(
                f"--targets {target}: allowed are {known}, or a whole slice such as "
                "v5e:16x16"
            )
        if importlib.util.find_spec(needs) is None:
            extra = "tpu" if kind in TPUS else "cuda"
            print(
                f"{target} is left out: {needs} is not installed "
                f"(pip install '.[{extra}]')",
                file=sys.stderr,
            )
            continue
        found = True
        batches = {"image": arguments.batches, "text": [256]}
        for size, tower in itertools.product(arguments.sizes, batches):
            if tower not in arguments.programs:
                continue
            for rows, kernel in itertools.product(batches[tower], arguments.attention):
                yield _tower(tower, size, rows, target, arguments.blocks, kernel)
        if "block" in arguments.programs:
            for size, rows, kernel in itertools.product(
                arguments.sizes, arguments.batches, arguments.attention
            ):
                yield _block(size, rows, target, kernel)
        if "head" in arguments.programs:
            yield _head(target)
    if not found:
        raise SystemExit("none of the compilers is installed")


def config(size: str, blocks: int = 0) -> clip_vit.Config:
    """Returns the configuration of one of `testing.SIZES`, without its checkpoint.

    Args:
      size: such as "ViT-L-14".
      blocks: of each tower, 0 for as many as it has.
    """
    shape = testing.SIZES[size]
    (width, layers, count), (t_width, t_layers) = shape["vision"], shape["text"]

    def sizes(width, layers, count):
        return TransformerConfig(
            width, blocks or layers, count, 4 * width, "quick_gelu", 1e-5
        )

    return clip_vit.Config(
        embed_dim=shape["embed_dim"],
        image_size=shape.get("size", 224),
        patch_size=shape["patch"],
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        context_length=testing.CONTEXT_LENGTH,
        vocab_size=testing.EOS + 1,
        eos_token_id=testing.EOS,
        vision=sizes(width, layers, count),
        text=sizes(t_width, t_layers, max(t_width // 64, 3)),
    )


def compile_tower(
    tower: str,
    c: clip_vit.Config,
    rows: int,
    devices: Any,
    dtype: Any = jnp.bfloat16,
    kernel: str = PREFERRED,
) -> Any:
    """Compiles a tower as `ShardedFunction` would, `rows` a device.

    Args:
      tower: "image" or "text".
      c: its configuration.
      rows: views, or texts of 77 tokens.
      devices: of a topology.
      dtype: of weights and activations.
      kernel: an implementation of attention; `PREFERRED` is what the towers choose on
        such a device.
    """
    branch = "vision" if tower == "image" else "text"
    if kernel == PREFERRED and devices[0].platform == "tpu":
        fn = clip_vit.encoder(branch, config=c, dtype=dtype, device=devices[0])
    else:
        if kernel == PREFERRED:  # whether it works there cannot be tried; it should
            kernel = "cudnn" if tower == "image" else attention.WRITTEN_OUT
        module = clip_vit.VisionTower if tower == "image" else clip_vit.TextTower
        fn = functools.partial(outputs.embedded, module(c, dtype, kernel))
    shape, kind = (c.image_size, c.image_size, 3), jnp.uint8
    if tower == "text":
        shape, kind = (c.context_length,), jnp.int32
    params = clip_vit.param_shapes(c, dtype)[branch]
    batch = jax.ShapeDtypeStruct((rows * len(devices), *shape), kind)
    return _compiled(fn, params, batch, devices)


def compile_block(
    c: clip_vit.Config,
    rows: int,
    devices: Any,
    dtype: Any = jnp.bfloat16,
    kernel: str = PREFERRED,
) -> Any:
    """Compiles one block of the image tower alone, in the layout that it has there.

    Args:
      c: configuration of the tower.
      rows: sequences a device.
      devices: of a topology.
      dtype, kernel: as for `compile_tower`.
    """
    sizes, length = c.vision, (c.image_size // c.patch_size) ** 2 + 1
    if kernel == PREFERRED and devices[0].platform != "tpu":
        kernel = "cudnn"  # as in `compile_tower`
    if kernel == PREFERRED:
        shape = (length, sizes.heads, sizes.width // sizes.heads)
        kernel = attention.preferred(devices[0], dtype, shape)
    block = transformer.Block(sizes, False, dtype, kernel)

    def fn(params, x):
        return block.apply({"params": params}, x)

    lengths = [length]
    if kernel == attention.HEADS_FIRST:
        lengths = attention.pieces(length)
    x = [
        jax.ShapeDtypeStruct((rows * len(devices), n, sizes.width), dtype)
        for n in lengths
    ]
    params = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
    return _compiled(fn, params, x, devices)


def _compiled(fn: Any, params: Any, batch: Any, devices: Any) -> Any:
    """Compiles `fn(params, batch)` as `ShardedFunction` would, from shapes."""
    mesh = Mesh(np.array(devices), ("data",))
    everywhere, by_rows = PartitionSpec(), PartitionSpec("data")

    def placed(tree, spec):
        here = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), tree
        )

    sharded = jax.shard_map(
        fn,
        mesh=mesh,
        in_specs=(everywhere, by_rows),
        out_specs=by_rows,
        check_vma=False,
    )
    arguments = placed(params, everywhere), placed(batch, by_rows)
    return jax.jit(sharded).lower(*arguments).compile()


def flops(tower: str, c: clip_vit.Config) -> float:
    """Returns the operations one row needs, the last block for its one position."""
    sizes = c.vision if tower == "image" else c.text
    width, length = sizes.width, c.context_length
    ends = 2 * width * c.embed_dim
    if tower == "image":
        length = (c.image_size // c.patch_size) ** 2 + 1
        ends += 2 * (length - 1) * 3 * c.patch_size**2 * width
    last = block_flops(sizes, length) / length + (length - 1) * 4 * width**2
    return ends + (sizes.layers - 1) * block_flops(sizes, length) + last


def block_flops(sizes: TransformerConfig, length: int) -> float:
    """Returns the operations one sequence needs in a block."""
    width, hidden = sizes.width, sizes.mlp_width
    return length * (8 * width**2 + 4 * width * hidden + 4 * length * width)


def _tower(
    tower: str, size: str, rows: int, target: str, blocks: int, kernel: str
) -> dict:
    """A row of a tower.

    With `blocks`, towers of so many blocks and one less are compiled and the others
    counted as their difference.
    """
    whole = config(size)
    layers = (whole.vision if tower == "image" else whole.text).layers
    devices = topology(target).devices
    counts = [blocks - 1, blocks] if 0 < blocks < layers else [layers]
    programs = [
        compile_tower(tower, config(size, n), rows, devices, kernel=kernel)
        for n in counts
    ]
    more = layers - counts[-1]

    def counted(values: list[int]) -> int:
        return values[-1] + (more * (values[-1] - values[0]) if more else 0)

    kind = target.partition(":")[0]
    chip = TPUS.get(kind)
    text = programs[-1].as_text()
    memory = programs[-1].memory_analysis()
    # Temporaries are used again by each block; weights are not.
    held = [p.memory_analysis().argument_size_in_bytes for p in programs]
    need = bytes_needed(programs[-1]) + counted(held) - held[-1]
    cores = chip.cores if chip else 1
    available = chip.memory if chip else GPUS[kind]["memory"]
    row = {
        "program": f"{size} {tower}",
        "target": target,
        "attention": kernel,
        "chips": len(devices) // cores,
        "blocks compiled": ", ".join(map(str, counts)) + f" of {layers}",
        "rows a chip": rows * cores,
    }
    if chip:
        total = counted([cycles(p.as_text()) for p in programs])
        rate = rows * cores * chip.clock / total
        row |= {
            "estimated cycles": total,
            "estimated rows/s a chip": rate,
            "estimated share of peak": rate * flops(tower, whole) / chip.peak,
        }
    return row | {
        "temporaries GB": memory.temp_size_in_bytes * cores / 1e9,
        "needed GB a chip": need * cores / 1e9,
        "memory GB a chip": available / 1e9,
        "collectives": len(COLLECTIVE.findall(text)),
        "fused kernel": "cuDNN" if CUDNN in text else "none",
    }


def _block(size: str, rows: int, target: str, kernel: str) -> dict:
    """A row of one block of the image tower, alone."""
    c = config(size)
    length = (c.image_size // c.patch_size) ** 2 + 1
    devices = topology(target).devices
    program = compile_block(c, rows, devices, kernel=kernel)
    chip = TPUS.get(target.partition(":")[0])
    cores = chip.cores if chip else 1
    row = {
        "program": f"{size} image, one block alone",
        "target": target,
        "attention": kernel,
        "chips": len(devices) // cores,
        "rows a chip": rows * cores,
    }
    if chip:
        total = cycles(program.as_text())
        rate = rows * cores * chip.clock / total
        row |= {
            "estimated cycles": total,
            "estimated share of peak": rate * block_flops(c.vision, length) / chip.peak,
        }
    return row | {
        "temporaries GB": program.memory_analysis().temp_size_in_bytes * cores / 1e9,
        "collectives": len(COLLECTIVE.findall(program.as_text())),
        "fused kernel": "cuDNN" if CUDNN in program.as_text() else "none",
    }


def compile_head(device: Any, rows: int = 80_000, width: int = 768) -> Any:
    """Compiles an epoch of the head's training for one device: batches of 128, float32.

    Args:
      device: of a topology.
      rows: training images.
      width: of their misalignments.
    """
    recipe = training_loop.head_recipe(config_lib.default())
    here = jax.sharding.SingleDeviceSharding(device)
    data = {
        "features": jax.ShapeDtypeStruct((rows, width), jnp.float32),
        "labels": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(recipe.init, key, data)
    state = variables, jax.eval_shape(recipe.optimizer.init, variables["params"]), {}
    epoch = jax.ShapeDtypeStruct((), jnp.int32)
    arguments = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here),
        (state, key, epoch, data, {}),
    )
    one = functools.partial(training_loop._epoch, recipe)
    return jax.jit(one).lower(*arguments).compile()


def _head(target: str, rows: int = 80_000, width: int = 768) -> dict:
    """A row of the head's epoch, on one device."""
    program = compile_head(topology(target).devices[0], rows, width)
    kind = target.partition(":")[0]
    chip = TPUS.get(kind)
    row = {
        "program": f"head, an epoch of {rows:,} x {width}",
        "target": target,
        "chips": 1,
        "rows a chip": config_lib.default().train.batch_size,
    }
    if chip:
        try:
            total = cycles(program.as_text())
        except ValueError as e:
            print(f"the head on {target} has no estimate: {e}", file=sys.stderr)
        else:
            row |= {
                "estimated cycles": total,
                "estimated rows/s a chip": rows * chip.clock / total,
            }
    return row | {
        "temporaries GB": program.memory_analysis().temp_size_in_bytes / 1e9,
        "needed GB a chip": bytes_needed(program) / 1e9,
        "memory GB a chip": (chip.memory if chip else GPUS[kind]["memory"]) / 1e9,
    }
