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
      caption_with: captioning model: folder, Hub id or ID@REVISION.
      captioner: adapter of `item_sidecars.captioners`, or package.module[:Name].
      ground_with: adapter of `item_sidecars.grounders`; "" for no objects.
      ground_model: its model; "" for the adapter's default.
      dtype: of both: "auto", "float32", "float16" or "bfloat16".
    """

    caption_with: str
    captioner: str = "auto"
    ground_with: str = ""
    ground_model: str = ""
    dtype: str = "auto"


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
    cache: str | Path | None = None,
    say: Say = lambda text: None,
) -> Annotations:
    """Captions images, and grounds their captions, asking only what is not known yet.

    Args:
      image_root: the folder the keys are relative to.
      keys: of the images.
      request: whom to ask.
      cache: folder of what is known; default `default_cache()`.
      say: takes a line on what is done.

    Raises:
      ValueError: when PyTorch or the sidecars are missing, with the command that
        installs them; when a sidecar stops, with its message.
    """
    folder = Path(cache) if cache else default_cache()
    root = Path(image_root)
    digests, faults = _digests(root, keys)
    known = {sha: root / key for key, sha in digests.items()}
    captions = _Memory(folder, "caption", request, say)
    wanted = {sha: _Image(sha, path.absolute()) for sha, path in known.items()}
    rows = captions.rows(wanted)

    objects = _Memory(folder, "ground", request, say) if request.ground_with else None
    pairs: dict[str, _Image] = {}
    for sha, row in rows.items():
        if objects and row["status"] == "done":
            text = row["caption"]
            pairs[_digest([sha, text])] = _Image(sha, known[sha].absolute(), text)
    found = objects.rows(pairs) if objects else {}
    boxes = {pairs[number].sha256: row for number, row in found.items()}
    records = [
        Record(key, error=f"the image cannot be read: {faults[key]}")
        if key in faults
        else _record(key, rows[digests[key]], boxes.get(digests[key]))
        for key in keys
    ]
    facts = {"captioner": captions.facts, "grounder": objects and objects.facts}
    asked = {"caption": captions.asked, "ground": objects.asked if objects else 0}
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
        keys = {number: f"{image.sha256}.png" for number, image in missing.items()}
        for number, image in missing.items():
            _link(image.path, work / "images" / keys[number])
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
            return [*options, "--model", r.caption_with, "--captioner", r.captioner]
        captions = work / "captions.jsonl"
        files.write_json_lines(
            captions,
            (
                {"key": keys[n], "sha256": i.sha256, "caption": i.caption}
                for n, i in sorted(missing.items(), key=lambda pair: pair[1].sha256)
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
    own = "." in request.captioner or ":" in request.captioner
    needed = ["item_sidecars"]
    if not own and (
        request.captioner == "auto" or not _module_sha256(request.captioner)
    ):
        needed += ["torch", "transformers", "jinja2"]
    if request.ground_with:
        needed.append("nltk")
    missing = installed.missing(needed)
    if missing:
        raise ValueError(
            f"captions need {' and '.join(missing)}, not installed here: "
            f"{installed.TORCH}"
        )


def _run(words: Sequence[str], role: str) -> None:
    """Runs `python -m WORDS`; its progress goes to standard error.

    Raises:
      ValueError: with its message, when it fails.
    """
    command = [sys.executable, "-m", *words]
    live = sys.stderr.isatty()  # a bar on a terminal moves; elsewhere it is forwarded
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
                sys.stderr.write(line)
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


def _link(path: Path, link: Path) -> None:
    """Gives an image a second name, whatever its own suffix is."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() or link.exists():
        return
    try:
        link.symlink_to(path)
    except OSError:  # Windows without the right to make links
        shutil.copyfile(path, link)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
