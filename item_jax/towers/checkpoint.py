"""The files of a checkpoint: finding them.

Everything here was written by others, so damage is a `ValueError` that names the file.
`tensors.py` reads what is in the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import files as files_lib
from item_jax import signatures
from item_jax.choices import nearest
from item_jax.towers.checks import open_clip_kind

# The same weights as safetensors, for repositories that may have pickles only.
WITH_SAFETENSORS = {
    "openai/clip-vit-large-patch14": "timm/vit_large_patch14_clip_224.openai",
    "openai/clip-vit-large-patch14-336": "timm/vit_large_patch14_clip_336.openai",
    "openai/clip-vit-base-patch16": "timm/vit_base_patch16_clip_224.openai",
    "openai/clip-vit-base-patch32": "timm/vit_base_patch32_clip_224.openai",
}

# Configuration and tokenizer, all but the weights.
SMALL_FILES = ("*.json", "*.txt", "*.model")

INDEX = ".index.json"

# Path in the parameter tree -> (key or keys in the file, layout function of as many
# tensors). `{i}` runs over the layers.
KeyTable = Mapping[str, tuple[str | tuple[str, ...], Callable[..., np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One of the ways in which the files of a family may be laid out.

    Attributes:
      name: for messages, such as "open_clip".
      config: the file name of the configuration.
      weights: the file names that the weights may have, in order of preference. Where
        there is no such file, `NAME.index.json` may list its shards.
      keys: where each parameter is in the weight files.
      ignored: regular expression of tensors that are no parameters.
      model_type: what the configuration's `model_type` must be; "" if it has none.
      open_clip_kinds: what an open_clip configuration must describe, in the words of
        `checks.open_clip_kind`; () if it is none of open_clip's.
    """

    name: str
    config: str
    weights: tuple[str, ...]
    keys: KeyTable
    ignored: str = ""
    model_type: str = ""
    open_clip_kinds: tuple[str, ...] = ()


class CheckpointFiles:
    """The files of one checkpoint, in a folder or on the Hugging Face Hub.

    Attributes:
      source: the folder or repository, as it was asked for.
      folder: where the files are.
      names: all file names, also of weights that are not downloaded yet.
      remote: whether it is a repository of the Hub.
      chosen: the name of the weights to read, a file or the index of its shards; ""
        for any.
    """

    def __init__(
        self,
        source: str,
        folder: Path,
        *,
        remote: bool,
        revision: str | None,
        chosen: str = "",
    ):
        """Prefer `open_checkpoint`."""
        self.source = source
        self.folder = folder
        self.remote = remote
        self.chosen = chosen
        self._revision = revision
        self._json: dict[str, dict[str, Any]] = {}
        self.names = {p.name for p in folder.iterdir() if p.is_file()}
        if remote:
            self.names |= _repository_files(source, revision)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return name in self.names

    def json(self, name: str) -> dict[str, Any] | None:
        """Returns a parsed JSON file, or None if there is none of this name.

        Raises:
          ValueError: naming the file, if it is not a JSON object.
        """
        path = self.folder / name
        if name not in self._json and path.is_file():
            try:
                self._json[name] = files_lib.read_json(path)
            except ValueError as e:
                fault = signatures.download_fault(path)
                raise ValueError(f"{path} {fault}" if fault else str(e)) from e
        return self._json.get(name)

    def check_downloads(self, names: Iterable[str]) -> None:
        """Raises ValueError for a file that is there and was not downloaded whole."""
        for name in names:
            if self.has(name) and (
                fault := signatures.download_fault(self.folder / name)
            ):
                raise ValueError(f"{self.folder / name} {fault}")

    def layout(self, layouts: Sequence[Layout]) -> Layout | None:
        """Returns the first layout whose configuration and weights are there.

        Without weights it is the first whose configuration is there; `weights` then
        says what is missing. None if no configuration is of one of these layouts.
        """
        known = [layout for layout in layouts if self._fits(layout)]
        whole = (layout for layout in known if self._sources(layout))
        return next(whole, known[0] if known else None)

    def others(self, layouts: Sequence[Layout]) -> list[CheckpointFiles]:
        """Returns the same folder with each set of weights chosen that is not read.

        Of a repository of the Hub there are none: one set is downloaded.
        """
        found = {
            name: None
            for layout in layouts
            if self._fits(layout)
            for name in self._sources(layout)
        }
        return [
            CheckpointFiles(
                self.source, self.folder, remote=False, revision=None, chosen=name
            )
            for name in list(found)[1:]
            if not self.remote
        ]

    def reads(self, layout: Layout) -> str:
        """Returns the name of the weights that are read, a file or an index."""
        return next(iter(self._sources(layout)), layout.weights[0])

    def _fits(self, layout: Layout) -> bool:
        raw = self.json(layout.config)
        if raw is None or layout.model_type not in ("", raw.get("model_type")):
            return False
        kinds = layout.open_clip_kinds
        return not kinds or open_clip_kind(raw) in kinds

    def _sources(self, layout: Layout) -> list[str]:
        """The weights that are there, files and indexes, in order of preference.

        As in transformers a whole file comes before shards, and an index beside it
        whose shards are gone is left over from an older save.
        """
        found = []
        for name in layout.weights:
            index = f"{name}.index.json"
            if self.has(name):
                found.append(name)
            if self.has(index) and (not self.has(name) or self._is_whole(index)):
                found.append(index)
        return [name for name in found if self.chosen in ("", name)]

    def _is_whole(self, index: str) -> bool:
        try:
            shards = self._shards(index)
        except ValueError:
            return False
        return bool(shards) and all(self.has(name) for name in shards)

    def _shards(self, index: str) -> list[str]:
        """The files that an index names.

        Raises:
          ValueError: for an index that is damaged, or names other files than
            safetensors in its own folder.
        """
        where = self.folder / index
        weight_map = files_lib.field(self.json(index) or {}, "weight_map", dict, where)
        names = sorted({str(name) for name in weight_map.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ValueError(
                    f"{where}: weight_map names {files_lib.printable(name)!r}; "
                    "expected a .safetensors file beside it"
                )
        return names

    def weights(self, layout: Layout) -> list[Path]:
        """Returns the weight files of a layout, downloaded if need be.

        Raises:
          ValueError: if there are none, with what is there instead.
        """
        read = self.reads(layout)
        names = self._shards(read) if read.endswith(INDEX) else [read]
        if self.remote:
            download(self.source, self._revision, allow_patterns=[*SMALL_FILES, *names])
        missing = [n for n in names if not (self.folder / n).is_file()]
        if missing or not names:
            raise ValueError(self._no_weights(missing or [read.removesuffix(INDEX)]))
        return [self.folder / n for n in names]

    def _no_weights(self, missing: list[str]) -> str:
        kinds = (".bin", ".pt", ".pth", ".msgpack", ".h5", ".safetensors")
        other = sorted(n for n in self.names if n.endswith(kinds))
        instead = WITH_SAFETENSORS.get(self.source)
        if instead:
            advice = f"the same weights as safetensors: {instead}"
        elif any(not n.endswith(".safetensors") for n in other):
            advice = (
                "convert them where you trust them: load the model with its own "
                "library, then model.save_pretrained(folder) or "
                "safetensors.torch.save_model"
            )
        else:
            advice = "download the weights too"
        return (
            f"{self.source} has no {', '.join(missing)} (weights found: "
            f"{', '.join(other) or 'none'}); pickled weights are not loaded; {advice}"
        )


def open_checkpoint(
    source: str, revision: str | None = None, *, short_names: Iterable[str] = ()
) -> CheckpointFiles:
    """Opens a checkpoint: a folder, else a repository whose small files are fetched.

    Args:
      source: the folder, a file of weights or an index of shards in it, or the
        repository id (owner/name).
      revision: branch, tag or commit of a repository.
      short_names: other names, for the message.

    Raises:
      ValueError: if it is neither, or cannot be fetched.
    """
    folder = Path(source)
    if folder.is_dir():
        return CheckpointFiles(source, folder, remote=False, revision=None)
    if folder.is_file() and folder.name.endswith((".safetensors", INDEX)):
        return CheckpointFiles(
            source, folder.parent, remote=False, revision=None, chosen=folder.name
        )
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise ValueError(
            f"no checkpoint {source!r}: not a folder, not a repository id "
            f"(owner/name), not a short name; {nearest(source, short_names)}"
        )
    folder = download(source, revision, allow_patterns=list(SMALL_FILES))
    return CheckpointFiles(source, folder, remote=True, revision=revision)


def download(source: str, revision: str | None, **options: Any) -> Path:
    """Fetches a repository of the Hugging Face Hub; returns the local folder.

    Args:
      source: the repository id.
      revision: branch, tag or commit.
      **options: of `huggingface_hub.snapshot_download`.

    Raises:
      ValueError: if it cannot be fetched, with the reason.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, **options))
    except hub_errors() as e:
        raise ValueError(
            f"cannot fetch {source!r} from the Hugging Face Hub, and there is no such "
            f"folder: {type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
        ) from e


def _repository_files(source: str, revision: str | None) -> set[str]:
    """The file names of a repository; none if the Hub does not answer."""
    from huggingface_hub import list_repo_files

    try:
        return set(list_repo_files(source, revision=revision))
    except hub_errors():
        return set()  # the downloaded files are all there is to know


def hub_errors() -> tuple[type[Exception], ...]:
    """Returns what `huggingface_hub` raises when something cannot be had."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    return (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
        # No network, whichever HTTP library this version of the hub is built on.
        *HfHubHTTPError.__bases__,
    )
