"""Checkpoints -> towers: a local folder or a Hugging Face repository, no PyTorch.

Two families of files are read: Hugging Face's `CLIPModel` (`config.json`,
`model.safetensors` whole or in shards) and open_clip's (`open_clip_config.json`,
`open_clip_model.safetensors`). Reading is strict both ways: every tensor of the file
is used or on a named list of buffers, every parameter is filled, every shape fits.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from item_jax.config import nearest
from item_jax.sharding import ShardedFunction
from item_jax.towers import clip_vit, clip_vit_files

# Short names lead to repositories that ship safetensors of OpenAI's weights.
SHORT_NAMES = {
    "ViT-L-14": "timm/vit_large_patch14_clip_224.openai",
    "ViT-L-14-336": "timm/vit_large_patch14_clip_336.openai",
    "ViT-B-16": "timm/vit_base_patch16_clip_224.openai",
    "ViT-B-32": "timm/vit_base_patch32_clip_224.openai",
}

# The same weights as safetensors, for repositories that may have pickles only.
WITH_SAFETENSORS = {
    "openai/clip-vit-large-patch14": SHORT_NAMES["ViT-L-14"],
    "openai/clip-vit-large-patch14-336": SHORT_NAMES["ViT-L-14-336"],
    "openai/clip-vit-base-patch16": SHORT_NAMES["ViT-B-16"],
    "openai/clip-vit-base-patch32": SHORT_NAMES["ViT-B-32"],
}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")

# Lengths texts are cut to, in tokens; with a causal tower pooled at its EOS the cut is
# exact, and 16 tokens cost a fifth of 77.
TEXT_BUCKETS = (8, 16, 24, 32, 48)


class Towers:
    """A CLIP model ready to embed.

    Underneath are `params` and the pure functions `clip_vit.encode_image` and
    `clip_vit.encode_text`.

    Attributes:
      name: the folder or repository it was loaded from.
      config: its `clip_vit.Config`.
      params: nested dictionary of NumPy arrays: "vision", "text", "logit_scale".
      dtype: "float32" or "bfloat16", of weights and activations.
      tokenizer: a transformers tokenizer.
    """

    def __init__(self, name, config, params, dtype, tokenizer, files=()):
        """Prefer `load_towers`. `files` are those the fingerprint is made of."""
        self.name = name
        self.config = config
        self.params = params
        self.dtype = dtype
        self.tokenizer = tokenizer
        self._files = tuple(files)
        self._encoders: dict[Any, ShardedFunction] = {}

    @property
    def embed_dim(self) -> int:
        """D, the width of the joint space."""
        return self.config.embed_dim

    @property
    def image_size(self) -> int:
        """S, the side of a view in pixels."""
        return self.config.image_size

    @functools.cached_property
    def checkpoint_sha256(self) -> str:
        """The SHA-256 of configuration, tokenizer and weight files: what an embedding
        depends on."""
        digest = hashlib.sha256(repr(self.config).encode())
        for file in self._files:
            with open(file, "rb") as f:
                digest.update(hashlib.file_digest(f, "sha256").digest())
        return digest.hexdigest()

    def image_encoder(self, *, batch_size=256, mode="jit", devices=None):
        """Returns the image tower as a `ShardedFunction`, made once per setting."""
        return self._encoder("vision", batch_size, mode, devices)

    def text_encoder(self, *, batch_size=256, mode="jit", devices=None):
        """Returns the text tower as a `ShardedFunction`, made once per setting."""
        return self._encoder("text", batch_size, mode, devices)

    def _encoder(self, tower, batch_size, mode, devices):
        devices = tuple(devices or jax.local_devices())
        key = (tower, batch_size, mode, devices)
        if key not in self._encoders:
            dtype = DTYPES[self.dtype]
            self._encoders[key] = ShardedFunction(
                clip_vit.encoder(
                    tower, config=self.config, dtype=dtype, device=devices[0]
                ),
                self.params[tower],
                batch_size=batch_size,
                mode=mode,
                devices=devices,
            )
        return self._encoders[key]

    def encode_image(self, views, **options) -> np.ndarray:
        """Embeds views.

        Args:
          views: uint8 `[N, S, S, 3]`, any N.
          **options: `batch_size`, `mode` and `devices` as for `image_encoder`.

        Returns:
          float32 `[N, D]`, un-normalised.

        Raises:
          ValueError: when the views have another shape or dtype.
        """
        views = np.asarray(views)
        size = self.image_size
        if views.dtype != np.uint8 or views.shape[1:] != (size, size, 3):
            raise ValueError(
                f"views are uint8 [N, {size}, {size}, 3] for {self.name}, found "
                f"{views.dtype} {list(views.shape)}"
            )
        encoder = self.image_encoder(**options)
        step = encoder.batch_size
        batches = (views[i : i + step] for i in range(0, len(views), step))
        return self._gather(encoder.stream(batches))

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Returns the token ids of each text, EOS last, and which had to be cut.

        Args:
          texts: any text; longer than `context_length` tokens is cut, the EOS kept.

        Returns:
          A list of lists of token ids, and bool `[N]`.
        """
        length = self.config.context_length
        ids = self.tokenizer(list(texts), truncation=False)["input_ids"]
        cut = np.array([len(row) > length for row in ids], bool)
        eos = self.config.eos_token_id
        ids = [row if len(row) <= length else row[: length - 1] + [eos] for row in ids]
        return ids, cut

    def encode_text(self, texts: Sequence[str], **options) -> np.ndarray:
        """Embeds texts: equal ones once, sorted by length, cut behind their EOS.

        Args:
          texts: any number of them.
          **options: `batch_size`, `mode` and `devices` as for `text_encoder`.

        Returns:
          float32 `[N, D]`, un-normalised, in the order given.
        """
        unique = sorted(set(texts))
        tokens, _ = self.tokenize(unique) if unique else ([], None)
        order = sorted(range(len(unique)), key=lambda i: len(tokens[i]))
        encoder = self.text_encoder(**options)
        step = encoder.batch_size
        batches = (
            self._pad([tokens[i] for i in order[start : start + step]])
            for start in range(0, len(order), step)
        )
        rows = self._gather(encoder.stream(batches))
        place = {unique[i]: row for row, i in enumerate(order)}
        return rows[[place[text] for text in texts]]

    def _pad(self, rows: list[list[int]]) -> np.ndarray:
        longest, limit = len(rows[-1]), self.config.context_length
        buckets = (*(b for b in TEXT_BUCKETS if b < limit), limit)
        length = next(b for b in buckets if b >= longest)
        eos = self.config.eos_token_id
        return np.array([row + [eos] * (length - len(row)) for row in rows], np.int32)

    def _gather(self, results) -> np.ndarray:
        return np.concatenate([np.zeros((0, self.embed_dim), np.float32), *results])


def load_towers(name: str | Path, dtype: str = "float32", *, revision=None) -> Towers:
    """Loads CLIP towers.

    Args:
      name: a folder, a Hugging Face repository id, or a short name such as
        "ViT-L-14".
      dtype: "float32" (the reference) or "bfloat16" (fast on accelerators).
      revision: branch, tag or commit of a repository.

    Raises:
      ValueError: for an unknown name or dtype, a checkpoint without safetensors, one
        that is no CLIP ViT, or one whose tensors are missing, extra or misshapen
        (with the difference).
    """
    name = str(name)
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; {nearest(dtype, DTYPES)}")
    source = SHORT_NAMES.get(name, name)
    folder = Path(source)
    remote = not folder.is_dir()
    if remote:
        if source.count("/") != 1 or source.startswith((".", "/")):
            raise ValueError(
                f"no checkpoint {name!r}: it is no folder here, no repository id "
                f"(owner/name) and no short name; {nearest(name, SHORT_NAMES)}"
            )
        folder = download(source, revision, allow_patterns=["*.json", "*.txt"])

    if (folder / "open_clip_config.json").is_file():
        scheme, index = "open_clip", "open_clip_model.safetensors"
        config = clip_vit_files.config_from_open_clip(
            _read_json(folder / "open_clip_config.json"), source
        )
    elif (folder / "config.json").is_file():
        scheme, index = "hugging face", "model.safetensors"
        raw = _read_json(folder / "config.json")
        if raw.get("model_type") != "clip":
            raise ValueError(
                f"{source}: config.json is of model_type {raw.get('model_type')!r}; "
                "only 'clip' can be read"
            )
        preprocessor = folder / "preprocessor_config.json"
        config = clip_vit_files.config_from_hf(
            raw, _read_json(preprocessor) if preprocessor.is_file() else {}
        )
    else:
        raise ValueError(
            f"{source} has neither config.json nor open_clip_config.json: found "
            f"{sorted(p.name for p in folder.iterdir()) or 'nothing'}"
        )
    files = _weight_files(source, folder, index, revision if remote else None, remote)
    params = _read_params(source, files, config, scheme, DTYPES[dtype])
    if not remote:
        name = str(folder.resolve())  # a saved head finds it from anywhere
    tokenizer_files = [p for p in map(folder.joinpath, TOKENIZER_FILES) if p.is_file()]
    tokenizer = _tokenizer(source, folder)
    return Towers(name, config, params, dtype, tokenizer, [*files, *tokenizer_files])


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} is no JSON: {e}") from e


def download(source: str, revision: str | None, **options) -> Path:
    """Fetches a repository of the Hugging Face Hub; returns the local folder.

    Raises:
      ValueError: when it cannot be had, with the reason.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return Path(snapshot_download(source, revision=revision, **options))
    except (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as e:
        raise ValueError(
            f"cannot fetch {source!r} from the Hugging Face Hub, and it is no folder "
            f"here: {type(e).__name__}: {str(e).splitlines()[0]}"
        ) from e


def _weight_files(source, folder, whole, revision, remote) -> list[Path]:
    index = folder / f"{whole}.index.json"
    if index.is_file():
        names = sorted(set(_read_json(index)["weight_map"].values()))
    else:
        names = [whole]
    if remote:
        folder = download(source, revision, allow_patterns=["*.json", "*.txt", *names])
    missing = [n for n in names if not (folder / n).is_file()]
    if missing:
        other = sorted(
            p.name
            for p in folder.iterdir()
            if p.suffix in (".bin", ".pt", ".msgpack", ".h5", ".safetensors")
        )
        instead = WITH_SAFETENSORS.get(source)
        advice = (
            f"the same weights with safetensors: {instead}"
            if instead
            else "repositories with safetensors: "
            + ", ".join(f"{v} ({k})" for k, v in SHORT_NAMES.items())
        )
        raise ValueError(
            f"{source} has no {', '.join(missing)} (found {other or 'no weights'}); "
            f"pickled weights are not loaded; {advice}"
        )
    return [folder / n for n in names]


def _read_params(source, files, config, scheme, dtype) -> dict:
    """Fills the model's parameters from safetensors, strictly both ways."""
    shapes = clip_vit.param_shapes(config, dtype)
    wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
    where = {}
    for file in files:
        try:
            handle = safe_open(file, framework="np")
        except SafetensorError as e:
            raise ValueError(f"{file} is no whole safetensors file: {e}") from e
        where |= dict.fromkeys(handle.keys(), handle)
    table = clip_vit_files.TABLES[scheme]
    used: set[str] = set()
    problems: list[str] = []
    params = {}
    for path, target in wanted.items():
        layer = re.search(r"block_(\d+)", path)
        keys, arrange = table[re.sub(r"block_\d+", "block_{i}", path)]
        names = [
            key.format(i=layer and layer[1])
            for key in ((keys,) if isinstance(keys, str) else keys)
        ]
        used.update(names)
        absent = [name for name in names if name not in where]
        problems += [f"missing {name}" for name in absent]
        if absent:
            continue
        parts = [where[name].get_tensor(name) for name in names]
        try:
            laid_out = [arrange(t) for t in parts]
            value = laid_out[0] if len(parts) == 1 else np.concatenate(laid_out, -1)
        except ValueError:  # of another rank than a weight of this kind has
            value = parts[0]
        if value.shape != target.shape:
            found = " + ".join(f"{n} {list(t.shape)}" for n, t in zip(names, parts))
            problems.append(f"misshapen {found} for our {path} {list(target.shape)}")
        params[path] = np.ascontiguousarray(value, target.dtype).reshape(value.shape)
    problems += [
        f"extra {name}"
        for name in sorted(set(where) - used)
        if not re.fullmatch(clip_vit_files.IGNORED, name)
    ]
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            f"the tensors of {source} do not fit its configuration ({scheme} keys, "
            f"{len(problems)} differences):\n  {shown}{more}"
        )
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _tokenizer(source: str, folder: Path):
    # It advises whoever has no PyTorch to install it; a tokenizer needs none.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import CLIPTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{source} has no tokenizer: none of {TOKENIZER_FILES}")
    return CLIPTokenizer.from_pretrained(str(folder))
