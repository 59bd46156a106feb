"""TPUs and GPUs that are not here: what they are, and reading a program compiled for
one of them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

from jax.experimental import topologies

# libtpu reads them when it starts: it is neither to look for the chips of this machine
# nor to keep them for one process.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
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

# The name of cuDNN's attention in a program.
CUDNN = "__cudnn$fmha"

COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)[-a-z]*\("
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
                total += _trips(line, blocks) * of(body[1])
                continue
            estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
            total += int(estimate[1]) if estimate else 0
        return total

    return of("ENTRY")


def _trips(loop: str, blocks: dict[str, str]) -> int:
    """Returns how often a loop runs.

    Either it says so, or its condition compares the counter with one constant: loops
    of `jax.lax.scan` count from 0 up to it.
    """
    stated = re.search(r'known_trip_count[^}]*?"n":"(\d+)"', loop)
    if stated:
        return int(stated[1])
    [condition] = re.findall(r"condition=(%[\w.\-]+)", loop)
    lines = blocks[condition]
    for called in re.findall(r"calls=(%[\w.\-]+)", lines):
        lines += blocks[called]
    limits = re.findall(r" s32\[\]\S* constant\((\d+)\)", lines)
    if lines.count("direction=LT") != 1 or len(limits) != 1:
        raise ValueError(f"the loop with {condition} does not say how often it runs")
    return int(limits[0])


def bytes_needed(compiled: Any) -> int:
    """Returns what a device must hold: arguments, results, temporaries, program."""
    m = compiled.memory_analysis()
    parts = (m.argument_size_in_bytes, m.output_size_in_bytes, m.temp_size_in_bytes)
    return sum(parts) + m.generated_code_size_in_bytes - m.alias_size_in_bytes
