"""`benchmark.py --suite compiled`: its estimates; a TPU's compiler in the slow lane."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks import chips, compiled

SCRIPTS = Path(__file__).parent.parent / "scripts"

# What the TPU's compiler prints, cut down: a loop of ten rounds beside two products.
PROGRAM = """\
HloModule jit_fn, is_scheduled=true

%body.1 (p: s32[]) -> s32[] {
  %a.1 = s32[] add(%p, %p), backend_config={"estimated_cycles":"7"}
  ROOT %b.1 = s32[] add(%a.1, %a.1), backend_config={"estimated_cycles":"3"}
}

%cond.1 (p: s32[]) -> pred[] {
  %n.1 = s32[]{:T(128)} constant(LIMIT)
  ROOT %less.1 = pred[]{:T(512)} compare(%p, %n.1), direction=LT
}

%unused.2 (p: s32[]) -> s32[] {
  ROOT %c.1 = s32[] add(%p, %p), backend_config={"estimated_cycles":"1000"}
}

ENTRY %main.5 (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %d.1 = f32[8]{0} fusion(%x), backend_config={"estimated_cycles":"100"}
  %w.1 = s32[] while(%x), condition=%cond.1, body=%body.1, backend_config=TRIPS
  ROOT %e.1 = f32[8]{0} fusion(%d.1), backend_config={"estimated_cycles":"20"}
}
"""


def test_cycles_count_a_loop_as_often_as_it_runs():
    ten = PROGRAM.replace("TRIPS", '{"known_trip_count":{"n":"10"}}')
    assert chips.cycles(ten) == 100 + 20 + 10 * (7 + 3)
    silent = PROGRAM.replace("TRIPS", "{}")
    counted = silent.replace("LIMIT", "625")
    assert chips.cycles(counted) == 100 + 20 + 625 * (7 + 3)
    for unclear in (silent, counted.replace("direction=LT", "direction=NE")):
        with pytest.raises(ValueError, match="with %cond.1 does not say how often"):
            chips.cycles(unclear)


@pytest.mark.parametrize(
    "size, image, text",
    [("ViT-L-14", 162.03, 13.30), ("ViT-B-16", 35.13, 5.96), ("ViT-B-32", 8.82, 5.96)],
)
def test_operations_are_the_published_ones_less_the_last_block(size, image, text):
    """Published (open_clip, docs/model_profile.csv): GFLOP of the whole towers. Ours
    leaves out the queries, the output and the MLP of all but one row of the last block.
    """
    c = compiled.config(size)
    patches = (c.image_size // c.patch_size) ** 2
    for tower, sizes, length, published in (
        ("image", c.vision, patches + 1, image),
        ("text", c.text, c.context_length, text),
    ):
        left_out = (length - 1) * (20 * sizes.width**2 + 4 * length * sizes.width)
        found = compiled.flops(tower, c) + left_out
        assert found == pytest.approx(published * 1e9, rel=0.01)


# Run as a program of its own, so that the tests' process stays without libtpu.
COMPILE = """
import os
os.environ["JAX_PLATFORMS"] = "cpu"
from benchmarks import chips, compiled
from item_jax import config
rows = config.default().embed.batch_size
devices = chips.topology("v5e").devices
c = compiled.config("ViT-L-14", blocks=3)
for tower in ("image", "text"):
    program = compiled.compile_tower(tower, c, rows, devices)
    assert chips.cycles(program.as_text()) > 0
    assert not chips.COLLECTIVE.findall(program.as_text())
    print(chips.bytes_needed(program))
own, plain = (
    chips.cycles(
        compiled.compile_tower("image", c, 16, devices, kernel=kernel).as_text()
    )
    for kernel in (compiled.PREFERRED, "written_out")
)
assert plain > 1.5 * own  # 1.9 for all 24 blocks
slice_ = chips.topology("v5e:16x16").devices
assert len(slice_) == 256
program = compiled.compile_tower("image", compiled.config("ViT-B-32", 1), rows, slice_)
assert "num_partitions=256" in program.as_text()
assert not chips.COLLECTIVE.findall(program.as_text())
"""


@pytest.mark.slow
def test_the_default_batch_fits_a_v5e_and_a_slice_needs_no_communication(tmp_path):
    """Three blocks of ViT-L/14: the buffers of a block are used again by the next, so
    that the 21 others add their weights alone, 25 MB each. Their layout is the one that
    the compiler expects to be faster. And a block of B/32 on a slice of 256 chips, of
    which none waits for another.
    """
    [version] = {
        r.partition("==")[2].partition(";")[0]
        for r in metadata.requires("jax")
        if r.startswith("libtpu==")
    }
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", "--target", str(tmp_path / "libtpu")),
            f"libtpu=={version}",
        ],
        check=True,
    )
    paths = (str(SCRIPTS), str(SCRIPTS.parent), str(tmp_path / "libtpu"))
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    image, text = map(int, done.stdout.split())
    assert image + 21 * 25.2e6 < chips.TPUS["v5e"].memory
    assert text + 9 * 14.2e6 < chips.TPUS["v5e"].memory
