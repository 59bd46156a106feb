"""A folder on the local disk for copies that every process of a machine shares."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def shared_folder() -> Path:
    """Returns a folder of this user in the temporary folder; it is made.

    Raises:
      ValueError: when somebody else owns a folder of that name: its content is not to
        be trusted.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"item-jax-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = folder.lstat().st_uid
    if owner != user or folder.is_symlink():
        raise ValueError(
            f"{folder} belongs to user {owner}, or is a link; set TMPDIR to a folder "
            "of your own"
        )
    return folder
