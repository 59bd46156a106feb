"""What `item-jax evaluate` wrote, read back: figures, and the score of every image."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import files, protocol
from item_jax.records import LABELS

_NEEDS: dict[str, type | tuple] = {
    "method": str,
    "generators": dict,
    "macro": dict,
    "methods": dict,
    "trained_on": dict,
    "unseen": list,
    "average": dict,
    "average_unseen": dict,
    "cosine": dict,
    "counts": dict,
    "failures": list,
    "protocol.name": str,
    "protocol.images": str,
    "protocol.real_sources": dict,
    "embedding": dict,
    "warnings": list,
    "config": dict,
}

_CSV_LIMIT = 1 << 24
"""Most characters of a cell: a caption is text of somebody else's."""


@dataclasses.dataclass(frozen=True)
class Results:
    """Results of one evaluation.

    Attributes:
      summary: the content of `results.json`.
      rows: of the n images that were scored, each {key, label, benchmark, generator,
        split, caption}; a label is None where unknown.
      labels: int `[n]`, real 0, fake 1, unknown -1.
      cosines: of image and caption, float `[n]`.
      scores: P(fake) `[n]` by method, of its first seed; the first method first.
      seeds: the same of every seed of a method, the first seed first.
      groups: row numbers by generator, as the figures of `summary` were computed on.
    """

    summary: dict[str, Any]
    rows: list[dict[str, str | None]]
    labels: np.ndarray
    cosines: np.ndarray
    scores: dict[str, np.ndarray]
    seeds: dict[str, list[np.ndarray]]
    groups: dict[str, np.ndarray]


def read(folder: str | Path) -> Results:
    """Reads the `results.json` and `scores.csv` of a folder.

    Raises:
      ValueError: if one is missing, damaged, or not of the same evaluation as the
        other; naming file and field or line.
    """
    path, table = Path(folder) / "results.json", Path(folder) / "scores.csv"
    for file in (path, table):
        wrong = files.what_is_wrong(file)
        if wrong:
            raise ValueError(
                f"no results in {folder}: {file.name} is {wrong}; `item-jax evaluate` "
                "writes it"
            )
    summary = files.read_json(path)
    for name, kind in _NEEDS.items():
        files.field(summary, name, kind, path)
    methods, first = summary["methods"], summary["method"]
    if first not in methods:
        raise ValueError(f"{path}: 'methods' lacks the first method {first!r}")
    columns = {
        (name, k): column(name, first, number)
        for name in [first, *(n for n in methods if n != first)]
        for k, number in enumerate(_seeds(methods[name], f"{path}: {name}"))
    }
    rows, cosines, found_scores = _read_scores(table, columns)
    seeds: dict[str, list[np.ndarray]] = {}
    for (name, _), own in found_scores.items():
        seeds.setdefault(name, []).append(own)
    if len(rows) != summary["counts"].get("done"):
        raise ValueError(
            f"{table} has {len(rows)} scored images, {path} says "
            f"{summary['counts'].get('done')}: run `item-jax evaluate` again"
        )
    labels = np.array([LABELS.get(row["label"] or "", -1) for row in rows], np.int64)
    preset = summary["protocol"]["name"]
    keys = [str(row["key"]) for row in rows]
    found = protocol.groups(rows, real_sources=summary["protocol"]["real_sources"])
    groups = {
        name: protocol.select(preset, index, labels, keys)
        for name, index in found.items()
    }
    if set(groups) != set(summary["generators"]):
        raise ValueError(
            f"{table} and {path} are of different generators: run `item-jax evaluate` "
            "again"
        )
    scores = {name: own[0] for name, own in seeds.items()}
    return Results(summary, rows, labels, cosines, scores, seeds, groups)


def column(name: str, first: str, seed: int | None = None) -> str:
    """Returns the column of `scores.csv` with the scores of a method.

    Args:
      name: of the method.
      first: the first method's, which has the plain column.
      seed: the number of a further seed; None for the first one.
    """
    plain = "p_fake" if name == first else f"p_fake_{name}"
    return plain if seed is None else f"{plain}@seed-{seed}"


def _seeds(method: Mapping[str, Any], where: str) -> list[int | None]:
    """The seeds of a method as `column` takes them."""
    if "seeds" not in method:
        return [None]
    each = files.field(method, "seeds.each", list, where)
    return [None, *(files.field(one, "seed", int, where) for one in each[1:])]


def _read_scores(
    path: Path, columns: Mapping[tuple[str, int], str]
) -> tuple[list[dict[str, str | None]], np.ndarray, dict[tuple[str, int], np.ndarray]]:
    """The rows of the images that were scored, their cosines, scores by method."""
    names = ("key", "label", "benchmark", "generator", "split", "caption")
    rows: list[dict[str, str | None]] = []
    cosines: list[float] = []
    scores: dict[tuple[str, int], list[float]] = {name: [] for name in columns}
    csv.field_size_limit(_CSV_LIMIT)
    with open(path, newline="", encoding="utf-8") as f:
        reader = csv.DictReader(f)
        wanted = [*names, "cosine", "status", *columns.values()]
        lacking = [n for n in wanted if n not in (reader.fieldnames or ())]
        if lacking:
            raise ValueError(
                f"{path} has no column {lacking[0]!r}: run `item-jax evaluate` again"
            )
        try:
            for row in reader:
                if row["status"] != "done":
                    continue
                where = f"{path}, line {reader.line_num}"
                row["label"] = row["label"] or None
                rows.append({name: row[name] for name in names})
                cosines.append(_number(row["cosine"], "cosine", -1.001, 1.001, where))
                for of, named in columns.items():
                    scores[of].append(_number(row[named], named, 0, 1, where))
        except csv.Error as e:
            raise ValueError(f"{path}, line {reader.line_num}: {e}") from e
    return (
        rows,
        np.array(cosines, np.float64),
        {name: np.array(values, np.float64) for name, values in scores.items()},
    )


def _number(text: str | None, name: str, low: float, high: float, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ValueError(
            f"{where}: {name} is {text!r}; expected a number from {low:g} to {high:g}"
        )
    return value


def write_parquet(folder: str | Path) -> Path:
    """Writes the `scores.csv` of a folder as `scores.parquet`; returns its path.

    The same columns in the same order: scores and cosine float64, `objects` int64, the
    rest text; what is empty in a number is null.
    """
    import pyarrow
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    source = Path(folder) / "scores.csv"
    with open(source, encoding="utf-8", newline="") as f:
        names = next(csv.reader(f))
    kinds = {
        name: pyarrow.float64()
        if name.startswith("p_fake") or name == "cosine"
        else pyarrow.int64()
        if name == "objects"
        else pyarrow.string()
        for name in names
    }
    table = arrow_csv.read_csv(
        source,
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=kinds, null_values=[""], strings_can_be_null=False
        ),
    )
    path = source.with_suffix(".parquet")
    with files.atomic_file(path, binary=True) as f:
        parquet.write_table(table, f)
    return path
