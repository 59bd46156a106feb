"""Towers and heads compiled for TPUs and GPUs that are not here.

The compilers run on any x86-64 Linux machine: libtpu brings the TPU's, the wheels of
`jax[cuda12]` the GPU's. What they say of a program is their own cost model, an estimate
and no measurement.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from item_jax import config as config_lib
from item_jax import heads, testing, training_loop
from item_jax.towers import attention, clip_vit, outputs
from item_jax.towers.transformer import TransformerConfig

# libtpu reads them when it starts: it is not to look for the chips of this machine.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A kind of TPU.

    Attributes:
      host: the topology of one host.
      clock: in Hz.
      peak: FLOP/s of a chip in bfloat16.
      memory: bytes of HBM of a chip.
      cores: devices a chip.
    """

    host: str
    clock: float
    peak: float
    memory: float
    cores: int = 1


# Peaks and memory: cloud.google.com/tpu/docs, system architecture. Clocks: the peak
# over the operations a cycle of a chip's matrix units.
TPUS = {
    "v4": Tpu("v4:2x2x1", 1.05e9, 275e12, 32e9, cores=2),
    "v5e": Tpu("v5e:2x2", 1.5e9, 197e12, 16e9),
    "v5p": Tpu("v5p:2x2x1", 1.75e9, 459e12, 95e9),
    "v6e": Tpu("v6e:2x2", 1.75e9, 918e12, 32e9),
}

# Facts of the cards, as NVIDIA publishes them, in XLA's words.
GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: {memory}
  shared_memory_per_block_optin: 232448 registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: 9 minor: 0 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""
GPUS = {
    "h100": dict(name="NVIDIA H100 80GB HBM3", bandwidth=3352 * 10**9, memory=80e9),
    "h200": dict(name="NVIDIA H200", bandwidth=4800 * 10**9, memory=141e9),
}

COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)[-a-z]*\("
)


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
        for size in arguments.sizes:
            for batch in arguments.batches:
                yield _tower("image", size, batch, target, arguments.blocks)
            yield _tower("text", size, 256, target, arguments.blocks)
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


def topology(target: str) -> Any:
    """Returns the description of a target: "v5e", a slice "v5e:16x16", or "h100"."""
    kind = target.partition(":")[0]
    if kind in GPUS:
        card = GPUS[kind]
        text = GPU.format(**card | {"memory": int(card["memory"])})
        return topologies.get_topology_desc(
            kind, "cuda", target_config=text, topology="1x1x1"
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    name = target if ":" in target else TPUS[kind].host
    return topologies.get_topology_desc(platform="tpu", topology_name=name)


def compile_tower(
    tower: str, c: clip_vit.Config, rows: int, devices: Any, dtype: Any = jnp.bfloat16
) -> Any:
    """Compiles a tower as `ShardedFunction` would, `rows` a device.

    Args:
      tower: "image" or "text".
      c: its configuration.
      rows: views, or texts of 77 tokens.
      devices: of a topology.
      dtype: of weights and activations.
    """
    branch = "vision" if tower == "image" else "text"
    if devices[0].platform == "tpu":
        fn = clip_vit.encoder(branch, config=c, dtype=dtype, device=devices[0])
    else:  # which kernel works there cannot be tried; cuDNN's is what should
        kernel = "cudnn" if tower == "image" else attention.WRITTEN_OUT
        module = clip_vit.VisionTower if tower == "image" else clip_vit.TextTower
        fn = functools.partial(outputs.embedded, module(c, dtype, kernel))
    mesh = Mesh(np.array(devices), ("data",))
    everywhere, by_rows = PartitionSpec(), PartitionSpec("data")
    params = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(
            s.shape, s.dtype, sharding=NamedSharding(mesh, everywhere)
        ),
        clip_vit.param_shapes(c, dtype)[branch],
    )
    shape, kind = (c.image_size, c.image_size, 3), jnp.uint8
    if tower == "text":
        shape, kind = (c.context_length,), jnp.int32
    batch = jax.ShapeDtypeStruct(
        (rows * mesh.size, *shape), kind, sharding=NamedSharding(mesh, by_rows)
    )
    sharded = jax.shard_map(
        fn,
        mesh=mesh,
        in_specs=(everywhere, by_rows),
        out_specs=by_rows,
        check_vma=False,
    )
    return jax.jit(sharded).lower(params, batch).compile()


def flops(tower: str, c: clip_vit.Config) -> float:
    """Returns the operations one row needs, the last block for its one position."""
    sizes = c.vision if tower == "image" else c.text
    width, hidden, length = sizes.width, sizes.mlp_width, c.context_length
    ends = 2 * width * c.embed_dim
    if tower == "image":
        length = (c.image_size // c.patch_size) ** 2 + 1
        ends += 2 * (length - 1) * 3 * c.patch_size**2 * width
    row = 8 * width**2 + 4 * width * hidden + 4 * length * width
    last = row + (length - 1) * 4 * width**2
    return ends + (sizes.layers - 1) * length * row + last


def cycles(text: str) -> int:
    """Returns the estimated cycles of a compiled TPU program, bodies of loops as often
    as they run.

    Each instruction carries an estimate. Asynchronous copies run beside the others and
    are not in the sum.

    Args:
      text: of `compiled.as_text()`.

    Raises:
      ValueError: if the program does not say how often a loop runs.
    """
    blocks = dict(
        (name, body)
        for name, body in re.findall(
            r"^(ENTRY|%[\w.\-]+)[^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL
        )
    )

    def of(name: str) -> int:
        total = 0
        for line in blocks[name].splitlines():
            body = re.search(r" while\(.*body=(%[\w.\-]+)", line)
            if body:
                trips = re.search(r'known_trip_count[^}]*?"n":"(\d+)"', line)
                if trips is None:
                    raise ValueError(
                        f"the loop {body[1]} does not say how often it runs"
                    )
                total += int(trips[1]) * of(body[1])
                continue
            estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
            total += int(estimate[1]) if estimate else 0
        return total

    return of("ENTRY")


def bytes_needed(compiled: Any) -> int:
    """Returns what a device must hold: arguments, results, temporaries, program."""
    m = compiled.memory_analysis()
    parts = (m.argument_size_in_bytes, m.output_size_in_bytes, m.temp_size_in_bytes)
    return sum(parts) + m.generated_code_size_in_bytes - m.alias_size_in_bytes


def _tower(tower: str, size: str, rows: int, target: str, blocks: int) -> dict:
    """A row of a tower.

    With `blocks`, towers of so many blocks and one less are compiled and the others
    counted as their difference.
    """
    whole = config(size)
    layers = (whole.vision if tower == "image" else whole.text).layers
    devices = topology(target).devices
    counts = [blocks - 1, blocks] if 0 < blocks < layers else [layers]
    programs = [compile_tower(tower, config(size, n), rows, devices) for n in counts]
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
        "fused kernel": "cuDNN" if "__cudnn$fmha" in text else "none",
    }


def _head(target: str, rows: int = 80_000, width: int = 768) -> dict:
    """A row of the head's epoch, on one device: batches of 128, float32."""
    c = config_lib.default()
    module = heads.make(c.head.name, hidden_dim=c.head.hidden_dim)
    optimizer = optax.adamw(c.train.learning_rate, weight_decay=c.train.weight_decay)
    epoch = functools.partial(
        training_loop._epoch, module, optimizer, c.train.batch_size
    )
    device = topology(target).devices[0]
    here = jax.sharding.SingleDeviceSharding(device)

    def placed(tree):
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), tree
        )

    features = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(module.init, key, features)["params"]
    state = params, jax.eval_shape(optimizer.init, params)
    shapes = state, key, jax.ShapeDtypeStruct((), jnp.int32), features
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
    program = jax.jit(epoch).lower(*placed((*shapes, labels))).compile()
    kind = target.partition(":")[0]
    chip = TPUS.get(kind)
    row = {
        "program": f"head, an epoch of {rows:,} x {width}",
        "target": target,
        "chips": 1,
        "rows a chip": c.train.batch_size,
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
