"""Captions and boxes on demand: the sidecars as processes of their own, with a memory.

    request = Request("Salesforce/blip2-opt-2.7b", ground_with="mm-grounding-dino")
    found = annotate("photos", ["a.jpg", "b.jpg"], request)
    detector.predict(found.records, images="photos")

The sidecars (`item_sidecars`, with the extra `torch`) are run by `python -m`; PyTorch
is never imported here. What they answer is kept, so that the same image is not asked
about again, and no model is loaded when nothing is missing:

    CACHE/caption-0123456789abcdef/      a folder a request: model, versions, ...
        request.json                     what was asked, for people
        current.json                     the fingerprint of the latest settings
        FINGERPRINT/0123....jsonl        {"id", "row"}: rows of the sidecar
        work-0123...                     a run that is not finished; it resumes

An image is known by the SHA-256 of its file, a pair of image and caption likewise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from item_jax import files, images, installed, join
from item_jax.progress import QUIET
from item_jax.records import Object, Record, object_from_json

SCHEMA = 1
# What the answers depend on besides the request; an upgrade asks again.
VERSIONS = ("item-jax", "torch", "transformers", "pillow", "numpy", "nltk")
THREADS = 8

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """Which models to ask.

    Attributes:
      caption_with: captioning model: folder, Hub id or ID@REVISION; "" where captions
        are given.
      captioner: adapter of `item_sidecars.captioners`, or package.module[:Name].
      ground_with: adapter of `item_sidecars.grounders`; "" for no objects.
      ground_model: its model; "" for the adapter's default.
      dtype: of both: "auto", "float32", "float16" or "bfloat16".
      allow_equal: whether captions that are all equal or empty are believed.
    """

    caption_with: str
    captioner: str = "auto"
    ground_with: str = ""
    ground_model: str = ""
    dtype: str = "auto"
    allow_equal: bool = False


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What the sidecars have found.

    Attributes:
      records: one per key, in order; `error` where a sidecar, or the file, failed.
      facts: `captioner` and `grounder`, as `join.sidecar_facts` returns them, or None.
      asked: how many images each of "caption" and "ground" was asked about just now.
    """

    records: list[Record]
    facts: dict[str, Any]
    asked: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Image:
    """One picture to ask about: digest of its file, path, caption if there is one."""

    sha256: str
    path: Path
    caption: str = ""


def default_cache() -> Path:
    """Returns `$XDG_CACHE_HOME/item_jax/sidecars`, by default below `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "item_jax" / "sidecars"


def annotate(
    image_root: str | Path,
    keys: Sequence[str],
    request: Request,
    *,
    captions: Sequence[str] | None = None,
    cache: str | Path | None = None,
    say: Say = lambda text: None,
) -> Annotations:
    """Captions images, and grounds their captions, asking only what is not known yet.

    Args:
      image_root: the folder the keys are relative to.
      keys: of the images.
      request: whom to ask.
      captions: one per key where they are given; then none are made.
      cache: folder of what is known; default `default_cache()`.
      say: takes a line on what is done.

    Raises:
      ValueError: when PyTorch or the sidecars are missing, with the command that
        installs them; when a sidecar stops, with its message.
    """
    folder = Path(cache) if cache else default_cache()
    root = Path(image_root)
    digests, faults = _digests(root, keys)
    paths = {sha: (root / key).absolute() for key, sha in digests.items()}
    facts: dict[str, Any] = {"captioner": None, "grounder": None}
    asked = {"caption": 0, "ground": 0}

    if captions is None:
        memory = _Memory(folder, "caption", request, say)
        rows = memory.rows({sha: _Image(sha, path) for sha, path in paths.items()})
        facts["captioner"], asked["caption"] = memory.facts, memory.asked
        captioned = [rows[digests[key]] if key in digests else {} for key in keys]
    else:
        captioned = [{"status": "done", "caption": text} for text in captions]

    pairs: dict[str, _Image] = {}  # of image and caption, by their digest
    of_key: list[str | None] = [None] * len(keys)
    for i, (key, row) in enumerate(zip(keys, captioned)):
        if request.ground_with and key in digests and row["status"] == "done":
            sha, text = digests[key], row["caption"]
            number = of_key[i] = _digest([sha, text])
            pairs[number] = _Image(sha, paths[sha], text)
    boxes: dict[str, dict[str, Any]] = {}
    if request.ground_with:
        memory = _Memory(folder, "ground", request, say)
        boxes = memory.rows(pairs)
        facts["grounder"], asked["ground"] = memory.facts, memory.asked

    records = []
    for key, row, pair in zip(keys, captioned, of_key):
        if key in faults:
            error = f"the image cannot be read: {faults[key]}"
            records.append(Record(key, error=error))
        else:
            records.append(_record(key, row, boxes[pair] if pair else None))
    return Annotations(records, facts, asked)


def _digests(
    root: Path, keys: Sequence[str]
) -> tuple[dict[str, str], dict[str, images.ImageError]]:
    """The SHA-256 of each image's file by key, and why some cannot be read."""

    def digest(key: str) -> str | images.ImageError:
        try:
            return hashlib.sha256(images.read_bytes(root, key)).hexdigest()
        except images.ImageError as e:
            return e

    with ThreadPoolExecutor(THREADS) as pool:
        results = dict(zip(keys, pool.map(digest, keys)))
    good = {k: v for k, v in results.items() if isinstance(v, str)}
    return good, {k: v for k, v in results.items() if isinstance(v, images.ImageError)}


def _record(
    key: str, caption: Mapping[str, Any], objects: Mapping[str, Any] | None
) -> Record:
    if caption["status"] != "done":
        return Record(key, error=f"captioner: {files.printable(caption.get('error'))}")
    found: tuple[Object, ...] = ()
    if objects is not None:
        if objects["status"] != "done":
            return Record(
                key, error=f"grounder: {files.printable(objects.get('error'))}"
            )
        found = tuple(object_from_json(o) for o in objects["objects"])
    return Record(key, caption=caption["caption"], objects=found)


class _Memory:
    """The answers to one request, and the process that is asked for missing ones.

    Attributes:
      facts: of the sidecar, as `join.sidecar_facts`; None before anything is known.
      asked: how many images were asked about.
    """

    def __init__(self, cache: Path, stage: str, request: Request, say: Say):
        self.stage, self._request, self._say = stage, request, say
        self._role = {"caption": "captioner", "ground": "grounder"}[stage]
        asked = _asked(stage, request)
        self._folder = cache / f"{stage}-{_digest(asked)[:16]}"
        self._settings = asked
        self.facts: dict[str, Any] | None = None
        self.asked = 0

    def rows(self, wanted: Mapping[str, _Image]) -> dict[str, dict[str, Any]]:
        """Returns the row of each image, by its id."""
        # Once more where the answers came from other settings than those known, as
        # when a branch of the Hub has moved: one set of rows has one fingerprint.
        for _ in range(3):
            known = self._read()
            missing = {i: image for i, image in wanted.items() if i not in known}
            if not missing:
                return {i: known[i] for i in wanted}
            self._say(
                f"{self.stage}: {len(wanted)} images, {len(wanted) - len(missing)} "
                f"known; asking {self._name()} about {len(missing)}"
            )
            self._ask(missing)
        raise ValueError(
            f"{self._name()} has other settings each time it is asked; see "
            f"{self._folder}"
        )

    def _name(self) -> str:
        r = self._request
        return r.caption_with if self.stage == "caption" else r.ground_with

    def _read(self) -> dict[str, dict[str, Any]]:
        """The rows that are known under the latest settings, by id."""
        current = self._folder / "current.json"
        if not current.is_file():
            return {}
        content = files.read_json(current)
        self.facts = files.field(content, "facts", dict, current)
        fingerprint = files.field(content, "fingerprint", str, current)
        known = {}
        for path in sorted((self._folder / fingerprint[:16]).glob("*.jsonl")):
            for number, line in files.read_json_lines(path):
                where = f"{path}, line {number}"
                row = files.field(line, "row", dict, where)
                if files.field(row, "status", str, where) == "done":
                    of_stage = {
                        "caption": ("caption", str),
                        "ground": ("objects", list),
                    }
                    files.field(row, *of_stage[self.stage], where)
                known[files.field(line, "id", str, where)] = row
        return known

    def _ask(self, missing: Mapping[str, _Image]) -> None:
        """Runs the sidecar over images and keeps its rows."""
        self.asked += len(missing)
        files.write_json(self._folder / "request.json", self._settings)
        name = _digest(sorted(missing))[:16]
        work = self._folder / f"work-{name}"
        keys = {number: f"{number}.png" for number in missing}
        for number, image in missing.items():
            give_name(image.path, work / "images" / keys[number])
        options = self._options(work, missing, keys)
        out = work / "out"
        _run([f"item_sidecars.{self.stage}", *options, "--out", str(out)], self._role)
        output = (
            out / {"caption": "captions.jsonl", "ground": "objects.jsonl"}[self.stage]
        )
        answers = {row["key"]: row for _, row in files.read_json_lines(output)}
        lines = []
        for number, image in missing.items():
            row = answers[keys[number]]
            if row.get("sha256") not in (None, image.sha256):
                raise ValueError(f"{image.path} has changed meanwhile; run it again")
            lines.append({"id": number, "row": row | {"key": ""}})
        facts = join.sidecar_facts(output, self._role) or {}
        settings = dict(files.read_json(out / "run.json")["settings"])
        for of_this_run in ("images", "captions"):
            settings.pop(of_this_run, None)
        fingerprint = _digest(settings)
        files.write_json_lines(self._folder / fingerprint[:16] / f"{name}.jsonl", lines)
        files.write_json(
            self._folder / "current.json",
            {"fingerprint": fingerprint, "facts": facts | {"fingerprint": fingerprint}},
        )
        files.remove_folder(work)

    def _options(
        self, work: Path, missing: Mapping[str, _Image], keys: Mapping[str, str]
    ) -> list[str]:
        r = self._request
        options = ["--images", str(work / "images"), "--dtype", r.dtype]
        if self.stage == "caption":
            options += ["--model", r.caption_with, "--captioner", r.captioner]
            return [*options, *(["--allow-equal-captions"] if r.allow_equal else [])]
        captions = work / "captions.jsonl"
        files.write_json_lines(
            captions,
            (
                {"key": keys[n], "sha256": i.sha256, "caption": i.caption}
                for n, i in sorted(missing.items())
            ),
        )
        options += ["--captions", str(captions), "--grounder", r.ground_with]
        return [*options, *(["--model", r.ground_model] if r.ground_model else [])]


def _asked(stage: str, request: Request) -> dict[str, Any]:
    """Everything a request's answers depend on, as far as it is known beforehand."""
    name, model = request.captioner, request.caption_with
    if stage == "ground":
        name, model = request.ground_with, request.ground_model
    folder = Path(model) if model else None
    return {
        "schema": SCHEMA,
        "stage": stage,
        "adapter": name,
        "adapter_sha256": _module_sha256(name),
        "model": model,
        "model_sha256": files.folder_digest(folder)
        if folder and folder.is_dir()
        else None,
        "dtype": request.dtype,
        "versions": {name: installed.version(name) for name in VERSIONS},
    }


def _module_sha256(name: str) -> str | None:
    """The digest of an adapter of one's own, which changes while it is written."""
    path = name.partition(":")[0]
    try:
        found = importlib.util.find_spec(path) if path != "auto" else None
    except (ImportError, ValueError):
        return None
    source = found and found.origin
    return files.sha256(source) if source and Path(source).is_file() else None


def check_installed(request: Request) -> None:
    """Refuses a request that cannot be answered here.

    Raises:
      ValueError: when the sidecars, or PyTorch for one of our captioners, are missing,
        with the command that installs them.
    """
    needed = ["item_sidecars"]
    if request.caption_with and not _is_own(request.captioner):
        needed += ["torch", "transformers", "jinja2"]
    if request.ground_with:
        needed += [] if _is_own(request.ground_with) else ["torch", "transformers"]
        needed.append("nltk")
    needed = list(dict.fromkeys(needed))
    missing = installed.missing(needed)
    if missing:
        raise ValueError(
            f"captions and boxes need {' and '.join(missing)}, not installed here: "
            f"{installed.TORCH}"
        )


def _is_own(adapter: str) -> bool:
    """Whether an adapter is somebody's own module, which needs what it needs."""
    return adapter != "auto" and _module_sha256(adapter) is not None


def _run(words: Sequence[str], role: str) -> None:
    """Runs `python -m WORDS`; what it says goes to standard error, unless `--quiet`.

    Raises:
      ValueError: with its message, when it fails.
    """
    command = [sys.executable, "-m", *words]
    quiet = bool(os.environ.get(QUIET))
    # A bar on a terminal moves; elsewhere its lines are forwarded.
    live = sys.stderr.isatty() and not quiet
    said: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=2 if live else subprocess.PIPE,
        stderr=None if live else subprocess.STDOUT,
        text=not live,
        errors=None if live else "replace",
    ) as process:
        try:
            for line in process.stdout or ():
                sys.stderr.write("" if quiet else line)
                said = [*said[-40:], line.rstrip()]
            status = process.wait()
        except BaseException:  # Ctrl-C and SIGTERM: it must not outlive us
            process.terminate()
            raise
    if status:
        raise ValueError(f"the {role} stopped{_message(said, words[0])}")


def _message(said: Sequence[str], module: str) -> str:
    """The message at the end of a program's output: `caption.py: ...`."""
    mark = f"{module.rpartition('.')[2]}.py: "
    starts = [i for i, line in enumerate(said) if line.startswith(mark)]
    if not starts:
        return "; its message is above"
    return ": " + "\n".join(said[starts[-1] :]).removeprefix(mark)


def give_name(path: Path, name: Path) -> None:
    """Gives an image a second name, by a link; a copy where links cannot be made."""
    name.parent.mkdir(parents=True, exist_ok=True)
    if name.exists():
        return
    name.unlink(missing_ok=True)  # of a stopped run, to a file that has moved
    try:
        name.symlink_to(path)
    except OSError:  # Windows without the right to make links
        shutil.copyfile(path, name)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
