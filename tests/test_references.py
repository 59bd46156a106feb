"""The references of the slow lane can be installed and imported."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_open_clip_and_torchvision_can_be_imported(references):
    program = (
        "import open_clip, torch, torchvision\n"
        "from torchvision.transforms.v2 import functional\n"
        "small = functional.resize(torch.zeros(3, 8, 8, dtype=torch.uint8), [4, 4])\n"
        "print(open_clip.__version__, tuple(small.shape))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=references,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[0] == "3.3.0 (3, 4, 4)"
