"""The join: an index of a folder and its sidecar files become records.

Standard library only, as `item_jax.records`. An index (`item_jax.datasets`) is joined
with two sidecar files:

    captions.jsonl   {key, sha256, width, height, caption, status, error}
    objects.jsonl    {key, sha256, phrases: [{phrase, span}],
                      objects: [{phrase, span, box, score}], status, error}

`status` is "done", "failed" or "skipped" ("ok" and "error" in files of version 0.1). A
line about one image that cannot be used does not stop a run: it becomes the `error` of
its record, and later a failure row. A `run.json` beside the file says how it was made.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from item_jax import files
from item_jax.records import Object, Record, normalise_key, object_from_json

STATUSES = {
    **{"done": True, "failed": False, "skipped": False},
    **{"ok": True, "error": False},  # version 0.1
}
"""The words of `status`, and whether the line can be used."""

FIELDS = {"captions": "caption", "objects": "objects"}
"""The field that makes a file one of captions or one of objects."""

DEFAULT_THRESHOLD = 0.3
"""The score from which a report counts an object as sure, unless the grounder has a
threshold of its own: that of the Grounding DINO family, as `config.data`."""


@dataclasses.dataclass
class JoinReport:
    """What a join found. `images` = `captioned` + `failed` + `without_caption`.

    Attributes:
      images: records joined.
      captioned, failed, without_caption: of those; `failed` in a sidecar.
      words, shortest, longest: of the captions: all words, and the extremes.
      grounded: records with a usable line of objects; `not_grounded` have no line.
      objects: candidates of the grounded ones, and how many of those are `sure`, with
        a score of at least `threshold`.
      without_objects, without_sure: grounded records that have no such object.
      unused_lines: sidecar lines that belong to no record.
      unused_because: how their keys differ from the images', where that is plain: "they
        begin with 'mine/', the images do not".
      threshold: the score from which an object counts as sure, in [0, 1].
      threshold_source: where it comes from: "given", "the grounder's own", "default".
      has_objects_file: whether objects were joined at all.
    """

    images: int = 0
    captioned: int = 0
    failed: int = 0
    without_caption: int = 0
    words: int = 0
    shortest: int = 0
    longest: int = 0
    grounded: int = 0
    not_grounded: int = 0
    objects: int = 0
    sure: int = 0
    without_objects: int = 0
    without_sure: int = 0
    unused_lines: int = 0
    unused_because: str = ""
    threshold: float = DEFAULT_THRESHOLD
    threshold_source: str = "default"
    has_objects_file: bool = False

    def add_caption(self, caption: str) -> None:
        """Counts a caption."""
        words = len(caption.split())
        self.shortest = min(self.shortest, words) if self.captioned else words
        self.longest = max(self.longest, words)
        self.words += words
        self.captioned += 1

    def add_objects(self, objects: Sequence[Object]) -> None:
        """Counts the objects of one grounded image."""
        sure = sum(o.score >= self.threshold for o in objects)
        self.grounded += 1
        self.objects += len(objects)
        self.sure += sure
        self.without_objects += not objects
        self.without_sure += not sure

    def text(self) -> str:
        """Returns the report as lines for people."""
        lines = [
            f"{self.images} images = {self.captioned} captioned + {self.failed} failed "
            f"in a sidecar + {self.without_caption} without a caption"
        ]
        if self.captioned:
            mean = self.words / self.captioned
            lines.append(
                f"captions of {mean:.1f} words on average, {self.shortest} to "
                f"{self.longest}"
            )
        lines.append(self._objects_text())
        if self.unused_lines:
            line = f"{self.unused_lines} sidecar lines belong to no image here"
            lines.append(line + f": {self.unused_because}" * bool(self.unused_because))
        return "\n".join(lines)

    def _objects_text(self) -> str:
        if not self.has_objects_file:
            return "no objects file"
        counts = f"{self.grounded} grounded, {self.not_grounded} not"
        if not self.grounded:
            return counts
        n = self.grounded
        return (
            f"{counts}; objects an image: {self.objects / n:.2f} candidates, "
            f"{self.sure / n:.2f} with a score of {self.threshold:g} or more "
            f"({self.threshold_source}); {self.without_objects / n:.1%} and "
            f"{self.without_sure / n:.1%} of the grounded images have none"
        )


def join(
    records: Iterable[Record],
    *,
    captions: str | Path | None = None,
    objects: str | Path | None = None,
    threshold: float | None = None,
) -> tuple[list[Record], JoinReport]:
    """Joins an index with its sidecar files by key.

    A sidecar line whose `status` is not "done", or with a caption, box or phrase that
    is not valid, gives its record an `error` that names file and line.

    Args:
      records: the images, with labels.
      captions: path of `captions.jsonl`, or None to keep the records' own captions.
      objects: path of `objects.jsonl`, or None to keep the records' own objects.
      threshold: the score from which the report counts an object as sure, in [0, 1]; by
        default the grounder's own, if its `run.json` has `grounder.reader_threshold`,
        else `DEFAULT_THRESHOLD`. It changes no record.

    Returns:
      The joined records in the order given, and a report whose counts add up.

    Raises:
      ValueError: for a sidecar line without a key, a duplicated key, a file of captions
        given as objects or the reverse, a file none of whose lines belongs to an image,
        or a damaged `run.json`.
    """
    records = list(records)
    report = JoinReport(has_objects_file=objects is not None)
    report.threshold, report.threshold_source = _threshold(threshold, objects)
    caption_lines = _lines_by_key(captions, "captions")
    object_lines = _lines_by_key(objects, "objects")
    keys = [record.key for record in records]
    _check_any_joins(captions, "captions", caption_lines, keys)
    _check_any_joins(objects, "lines of objects", object_lines, keys)
    joined = []
    for record in records:
        changes: dict[str, Any] = {}
        errors = [record.error]
        caption_place = ""
        if record.key in caption_lines:
            number, row = caption_lines.pop(record.key)
            caption_place = f"{captions}, line {number}: "
            errors.append(_failure(row, caption_place))
            changes["caption"] = None if errors[-1] else row.get("caption")
        if record.key in object_lines:
            number, row = object_lines.pop(record.key)
            place = f"{objects}, line {number}: "
            errors.append(_failure(row, place))
            if errors[-1] is None:
                try:
                    changes["objects"] = _objects(row)
                    report.add_objects(changes["objects"])
                except ValueError as e:
                    errors.append(f"{place}{e}")
        elif objects is not None:
            report.not_grounded += 1
        error = next((e for e in errors if e is not None), None)
        try:
            record = dataclasses.replace(record, error=error, **changes)
        except ValueError as e:  # a caption that is not text
            record = dataclasses.replace(record, error=f"{caption_place}{e}")
        report.images += 1
        if record.error is not None:
            report.failed += 1
        elif record.caption is None or not record.caption.strip():
            report.without_caption += 1
        else:
            report.add_caption(record.caption)
        joined.append(record)
    report.unused_lines = len(caption_lines) + len(object_lines)
    report.unused_because = _difference([*caption_lines, *object_lines], keys)
    return joined, report


def _check_any_joins(
    path: str | Path | None, what: str, lines: Collection[str], keys: Collection[str]
) -> None:
    """Refuses a sidecar file that has lines, none of them of an image here."""
    if lines and keys and not set(lines) & set(keys):
        because = _difference(lines, keys)
        raise ValueError(
            f"{path}: 0 of {len(lines):,} {what} match one of the {len(keys):,} "
            f"images; the first are {min(lines)!r} and {min(keys)!r}"
            + f": {because}"
            * bool(because)
        )


def _difference(lines: Iterable[str], keys: Iterable[str]) -> str:
    """How the keys of a sidecar file differ from those of the images.

    Lines and images are compared by the longest end of their paths that is the same but
    for case and suffix of the file.

    Returns:
      What at least half of the lines (of the first 1,000) have in common, or "".
    """
    ends: dict[tuple[str, ...], str] = {}
    sample = sorted(lines)[:1000]
    for line in sample:
        parts = _comparable(line)
        ends |= {parts[i:]: line for i in range(len(parts))}
    nearest: dict[str, tuple[int, str]] = {}
    for key in keys:
        parts = _comparable(key)
        common = (parts[i:] for i in range(len(parts)))
        end = next((end for end in common if end in ends), None)
        if end is not None and len(end) > nearest.get(ends[end], (0, ""))[0]:
            nearest[ends[end]] = len(end), key
    said = Counter(_in_words(line, key, n) for line, (n, key) in nearest.items())
    words, agreeing = max(said.items(), key=lambda i: i[1], default=("", 0))
    return words if 2 * agreeing >= len(sample) else ""


def _comparable(key: str) -> tuple[str, ...]:
    return tuple(os.path.splitext(key)[0].casefold().split("/"))


def _in_words(line: str, key: str, common: int) -> str:
    """How a line's key differs from an image's of which `common` parts are the same."""
    (*line_top, line_end), (*key_top, key_end) = (
        (*(f"{part}/" for part in parts[:-common]), "/".join(parts[-common:]))
        for parts in (line.split("/"), key.split("/"))
    )
    differences = []
    if line_top or key_top:
        one, other = "".join(line_top), "".join(key_top)
        if not one:
            differences.append(f"the images begin with {other!r}, they do not")
        elif not other:
            differences.append(f"they begin with {one!r}, the images do not")
        else:
            differences.append(f"they begin with {one!r}, the images with {other!r}")
    (line_end, one), (key_end, other) = map(os.path.splitext, (line_end, key_end))
    if one.casefold() != other.casefold():
        differences.append(f"they end in {one!r}, the images in {other!r}")
    if line_end != key_end or (one != other and one.casefold() == other.casefold()):
        differences.append("upper and lower case differ")
    return "; ".join(differences)


def _failure(row: Mapping[str, Any], place: str) -> str | None:
    """Why a sidecar line cannot be used, or None."""
    status = row.get("status", "done")
    if not isinstance(status, str) or status not in STATUSES:
        return f"{place}status is {status!r}; allowed: done, failed, skipped"
    if STATUSES[status]:
        return None
    return f"{place}{files.printable(row.get('error') or status)}"


def _objects(row: Mapping[str, Any]) -> tuple[Object, ...]:
    rows = row.get("objects")
    if not isinstance(rows, list | None):
        raise ValueError(f"objects are not a list: {rows!r}")
    return tuple(object_from_json(o) for o in rows or ())


def _lines_by_key(
    path: str | Path | None, kind: str
) -> dict[str, tuple[int, dict[str, Any]]]:
    """The lines of a sidecar file with their numbers, by key.

    Args:
      path: of the file, or None.
      kind: "captions" or "objects".
    """
    lines: dict[str, tuple[int, dict[str, Any]]] = {}
    if path is None:
        return lines
    for number, row in files.read_json_lines(path):
        if not isinstance(row.get("key"), str):
            raise ValueError(f"{path}, line {number}: no key: {row}")
        key = normalise_key(row["key"])
        if key in lines:
            raise ValueError(
                f"{path}: key {key!r} is on line {lines[key][0]} and on line {number}"
            )
        lines[key] = number, row
    _check_kind(path, kind, [row for _, row in lines.values()])
    return lines


def _check_kind(path: str | Path, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuses captions given as objects, and the reverse."""
    done = [row for row in rows if _failure(row, "") is None]
    if not done or any(FIELDS[kind] in row for row in done):
        return
    other = next(
        (k for k, name in FIELDS.items() if any(name in row for row in done)), None
    )
    looks = (
        f"it looks like a file of {other}: pass it as --{other}"
        if other
        else f"its lines have {', '.join(sorted(done[0]))}"
    )
    raise ValueError(f"{path}: no line has {FIELDS[kind]!r}; {looks}")


# --------------------------------------------------------------------------- run.json


def sidecar_facts(path: str | Path | None, role: str) -> dict[str, Any] | None:
    """Returns how a sidecar file was made, from the `run.json` beside it.

    Args:
      path: of `captions.jsonl` or `objects.jsonl`; None for none.
      role: "captioner" or "grounder".

    Returns:
      What `run.json` says of the model (id, revision, prompt, decoding, ...), with
      "perturbation" (of the pixels it saw; "none") and "fingerprint" (of the run, or
      None); `{"id": "unknown: ..."}` when nothing is known; None without a path.

    Raises:
      ValueError: naming file and field, for a damaged `run.json`.
    """
    if path is None:
        return None
    beside = _run_json(path)
    if beside is None:
        return {"id": "unknown: no run.json beside the file"}
    content = files.read_json(beside)
    if role not in content:
        return {"id": f"unknown: run.json beside the file names no {role}"}
    facts = dict(files.field(content, role, dict, beside))
    files.field({"id": "unnamed"} | facts, "id", str, beside)
    settings = files.field({"settings": {}} | content, "settings", dict, beside)
    perturbation = {"perturbation": "none"} | settings
    fingerprint = {"fingerprint": None} | content
    return (
        {"id": "unnamed"}
        | facts
        | {
            "perturbation": files.field(perturbation, "perturbation", str, beside),
            "fingerprint": files.field(
                fingerprint, "fingerprint", (str, type(None)), beside
            ),
        }
    )


def _run_json(path: str | Path) -> Path | None:
    path = Path(path)
    candidates = (path.with_suffix(".run.json"), path.parent / "run.json")
    return next((run for run in candidates if run.is_file()), None)


def _threshold(given: float | None, objects: str | Path | None) -> tuple[float, str]:
    """The threshold of the report, and where it comes from."""
    if given is not None:
        if not 0 <= given <= 1:
            raise ValueError(f"threshold is {given}; allowed: 0 to 1")
        return given, "given"
    facts = sidecar_facts(objects, "grounder") or {}
    own = facts.get("reader_threshold")
    if own is None:
        return DEFAULT_THRESHOLD, "default"
    own = files.field(facts, "reader_threshold", (int, float), _run_json(objects or ""))
    if not (math.isfinite(own) and 0 <= own <= 1):
        raise ValueError(
            f"{_run_json(objects or '')}: grounder.reader_threshold is {own}; allowed: "
            "0 to 1"
        )
    return own, "the grounder's own"


def check_perturbations(
    captioner: Mapping[str, Any] | None, grounder: Mapping[str, Any] | None
) -> None:
    """Makes sure that captioner and grounder have seen the same pixels.

    Args:
      captioner: of `sidecar_facts`.
      grounder: of `sidecar_facts`.

    Raises:
      ValueError: when both say how their pixels were perturbed and do not agree.
    """
    one, other = ((facts or {}).get("perturbation") for facts in (captioner, grounder))
    if one is not None and other is not None and one != other:
        raise ValueError(
            f"the captions are of pixels with perturbation {one!r}, the objects of "
            f"pixels with {other!r}; make both with the same --perturb"
        )
