"""Records from a `records.jsonl`, made by `item-jax index` or by any other program.

One line an image; only `key` is a must:

    {"key": "a/b.png", "label": "fake", "generator": "mine", "split": "test",
     "caption": "a dog", "objects": [{"phrase": "dog", "box": [0, 0, 1, 1]}]}

Beside it may stand `records.run.json`: `images`, the folder the keys are relative to;
`captioner` and `grounder`; and `pairs`, {generator: source of its real images}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from item_jax.records import Record, read_records


def load(path: str | Path) -> tuple[list[Record], dict[str, Any]]:
    """Reads the records and what is known of them.

    Args:
      path: the `.jsonl` file.

    Returns:
      The records, and `records.run.json`, empty when there is none.

    Raises:
      ValueError: for a missing file, an invalid record or a key that stands there
        twice, naming file and line; or a `run.json` that is no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"no records at {path}: make them with `item-jax index ... --out {path}` "
            "or set --config.data.records"
        )
    beside = path.with_suffix(".run.json")
    run: Any = {}
    if beside.is_file():
        try:
            run = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as e:
            raise ValueError(f"{beside}: no JSON ({e})") from e
        if not isinstance(run, dict):
            raise ValueError(f"{beside}: no JSON object: {run!r}")
    return read_records(path), run
