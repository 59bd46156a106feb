"""The two towers of a CLIP-like model, ready to embed, and `load_towers`.

The package meets a model only here: `Towers` knows nothing of its architecture, which
is a module of this folder or of somebody else's (a family, see README.md).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from item_jax import choices, files
from item_jax.sharding import RowFunction, ShardedFunction
from item_jax.towers import two_sets
from item_jax.towers.checkpoint import open_checkpoint
from item_jax.towers.families import read_config
from item_jax.towers.outputs import EMBEDDING, split
from item_jax.towers.tensors import read_params
from item_jax.towers.text_cleaning import CLEANINGS, checked

# Short names lead to repositories that ship safetensors of OpenAI's weights.
SHORT_NAMES = {
    "ViT-L-14": "timm/vit_large_patch14_clip_224.openai",
    "ViT-L-14-336": "timm/vit_large_patch14_clip_336.openai",
    "ViT-B-16": "timm/vit_base_patch16_clip_224.openai",
    "ViT-B-32": "timm/vit_base_patch32_clip_224.openai",
    "RN50": "timm/resnet50_clip.openai",
    "RN101": "timm/resnet101_clip.openai",
    "RN50x4": "timm/resnet50x4_clip.openai",
    "RN50x16": "timm/resnet50x16_clip.openai",
    "RN50x64": "timm/resnet50x64_clip.openai",
}

LONG_TEXT = "a " * 1000  # more tokens than any family's context

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Towers:
    """An image tower and a text tower that share one joint space.

    Attributes:
      name: the folder or repository it was loaded from.
      family: the name of the family, such as "clip_vit" or "package.module".
      config: the family's configuration; has `embed_dim` and `image_size`.
      params: nested dictionary of NumPy arrays, with the trees "vision" and "text".
      dtype: "float32" or "bfloat16", of weights and activations.
      tokenizer: what the family's `load_tokenizer` returned.
      text_cleaning: how texts are cleaned before they are tokenised, a name of
        `item_jax.towers.text_cleaning.CLEANINGS`.
    """

    def __init__(
        self,
        name: str,
        family: str,
        module: Any,
        config: Any,
        params: dict[str, Any],
        dtype: str,
        tokenizer: Any,
        digested: Sequence[Path] = (),
        text_cleaning: str = "none",
    ):
        """Prefer `load_towers`.

        Args:
          name, family, config, params, dtype, tokenizer, text_cleaning: see the class.
          module: the family itself.
          digested: the files that `checkpoint_sha256` is made of, in order.
        """
        self.name = name
        self.family = family
        self.config = config
        self.params = params
        self.dtype = dtype
        self.tokenizer = tokenizer
        self.text_cleaning = choices.check("text_cleaning", text_cleaning, CLEANINGS)
        self._module = module
        self._digested = tuple(digested)
        self._encoders: dict[Any, ShardedFunction] = {}

    @property
    def embed_dim(self) -> int:
        """D, the width of the joint space."""
        return self.config.embed_dim

    @property
    def image_size(self) -> int:
        """S, the side of a view in pixels."""
        return self.config.image_size

    @property
    def geometry(self) -> str:
        """How the whole image became a view in the checkpoint's training, a name of
        `item_jax.views.GEOMETRIES`; "" where that is not known."""
        return getattr(self.config, "geometry", "")

    @property
    def image_outputs(self) -> dict[str, tuple[int, ...]]:
        """What `encode_image` can return, and the shape of each for one view."""
        known = getattr(self._module, "image_outputs", None)
        return known(self.config) if known else {EMBEDDING: (self.embed_dim,)}

    def output_shapes(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of some outputs of the image tower for one view.

        Args:
          names: of `image_outputs`; one that comes twice counts once.

        Raises:
          ValueError: for an output that these towers do not have.
        """
        known = self.image_outputs
        for name in names:
            choices.check(f"output of {self.name} ({self.family})", name, known)
        return {name: known[name] for name in names}

    @functools.cached_property
    def checkpoint_sha256(self) -> str:
        """The SHA-256 of configuration, weight files and tokenizer files: what an
        embedding depends on."""
        text = getattr(self._module, "digest_text", repr)(self.config)
        digest = hashlib.sha256(text.encode())
        for path in self._digested:
            digest.update(bytes.fromhex(files.sha256(path)))
        return digest.hexdigest()

    def image_encoder(
        self,
        *,
        batch_size: int = 256,
        mode: str = "jit",
        devices: Sequence[jax.Device] | None = None,
        outputs: Sequence[str] = (EMBEDDING,),
    ) -> ShardedFunction:
        """Returns the image tower: uint8 `[B, S, S, 3]` -> float32 `[B, D]`.

        It is made once per setting.

        Args:
          batch_size, mode, devices: see `ShardedFunction`.
          outputs: names of `image_outputs`; its rows are then all of them side by
            side, which `outputs.split` takes apart.

        Raises:
          ValueError: for an output that these towers do not have.
        """
        names = tuple(self.output_shapes(outputs))
        more = () if names == (EMBEDDING,) else names
        return self._encoder("vision", batch_size, mode, devices, more)

    def text_encoder(
        self,
        *,
        batch_size: int = 256,
        mode: str = "jit",
        devices: Sequence[jax.Device] | None = None,
    ) -> ShardedFunction:
        """Returns the text tower: int32 tokens `[B, T]` -> float32 `[B, D]`.

        It is made once per setting.

        Args:
          batch_size, mode, devices: see `ShardedFunction`.
        """
        return self._encoder("text", batch_size, mode, devices)

    def _encoder(
        self,
        tower: str,
        batch_size: int = 256,
        mode: str = "jit",
        devices: Sequence[jax.Device] | None = None,
        outputs: tuple[str, ...] = (),
    ) -> ShardedFunction:
        devices = tuple(devices or jax.local_devices())
        key = (tower, batch_size, mode, devices, outputs)
        if key not in self._encoders:
            self._encoders[key] = ShardedFunction(
                self._module.encoder(
                    tower,
                    config=self.config,
                    dtype=DTYPES[self.dtype],
                    device=devices[0],
                    **({"outputs": outputs} if outputs else {}),
                ),
                self.params[tower],
                batch_size=batch_size,
                mode=mode,
                devices=devices,
            )
        return self._encoders[key]

    def function(self, tower: str, device: Any) -> RowFunction:
        """Returns a tower as a pure function, `fn(params[tower], rows)`.

        Args:
          tower: "vision" or "text".
          device: which it is written for; its `platform` may be one that no family
            knows, for what every device can run.
        """
        return self._module.encoder(
            tower, config=self.config, dtype=DTYPES[self.dtype], device=device
        )

    @overload
    def encode_image(
        self, views: Any, *, outputs: None = None, **options: Any
    ) -> np.ndarray: ...

    @overload
    def encode_image(
        self, views: Any, *, outputs: Sequence[str], **options: Any
    ) -> dict[str, np.ndarray]: ...

    def encode_image(self, views, *, outputs=None, **options):
        """Embeds views.

        Args:
          views: uint8 `[N, S, S, 3]`, any N.
          outputs: names of `image_outputs`, such as "pooled" and "class_tokens", see
            `item_jax/towers/outputs.py`: all of them from one pass.
          **options: `batch_size`, `mode` and `devices` as for `image_encoder`.

        Returns:
          float32 `[N, D]`, un-normalised; with `outputs` a dictionary of them, each
          float32 `[N, *its shape]`.

        Raises:
          ValueError: if the views have another shape or dtype; if an embedding is not
            finite; for an output that these towers do not have.
        """
        if outputs is None:
            return self._views(self.image_encoder(**options), views, self.embed_dim)
        if isinstance(outputs, str) or not outputs:
            raise ValueError(f"outputs is a list of names, found {outputs!r}")
        shapes = self.output_shapes(outputs)
        encoder = self.image_encoder(**options, outputs=tuple(shapes))
        width = sum(map(math.prod, shapes.values()))
        return split(self._views(encoder, views, width), shapes, tuple(shapes))

    def _views(self, encoder: ShardedFunction, views: Any, width: int) -> np.ndarray:
        views = np.asarray(views)
        side = self.image_size
        if views.dtype != np.uint8 or views.shape[1:] != (side, side, 3):
            raise ValueError(
                f"views are uint8 [N, {side}, {side}, 3] for {self.name}, found "
                f"{views.dtype} {list(views.shape)}"
            )
        step = encoder.batch_size
        batches = (views[i : i + step] for i in range(0, len(views), step))
        return self._gather(encoder.stream(batches), "view", width)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Returns the token ids of each text, cleaned, and which texts had to be cut.

        Args:
          texts: a list of any texts.

        Returns:
          A list of lists of token ids, as long as the tower takes at most, and bool
          `[N]`.

        Raises:
          ValueError: if `texts` is not a list of strings.
        """
        texts = checked(texts)
        if not texts:
            return [], np.zeros(0, bool)
        cleaned = list(map(CLEANINGS[self.text_cleaning], texts))
        return self._module.tokenize(self.tokenizer, cleaned, self.config)

    def full_length(self, texts: Sequence[str]) -> np.ndarray:
        """Returns token ids padded to the longest text that the tower takes.

        Args:
          texts: a list of at least one.

        Returns:
          int32 `[N, T]`.
        """
        rows, _ = self.tokenize([*texts, LONG_TEXT])
        return self._module.pad_tokens(rows, self.config)[:-1]

    def encode_text(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """Embeds texts.

        Args:
          texts: a list of any number of them.
          **options: `batch_size`, `mode` and `devices` as for `text_encoder`.

        Returns:
          float32 `[N, D]`, un-normalised, in the order given.

        Raises:
          ValueError: if `texts` is not a list of strings, or if an embedding is not
            finite.
        """
        return self.embed_text(texts, **options)[0]

    def embed_text(
        self, texts: Sequence[str], **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeds texts, and says which were longer than the tower takes.

        Equal texts are embedded once, and texts of like length together, padded to
        no more than the longest of them needs.

        Args:
          texts, **options: as for `encode_text`.

        Returns:
          float32 `[N, D]`, un-normalised, and bool `[N]`, both in the order given.

        Raises:
          ValueError: as `encode_text`.
        """
        texts = checked(texts)
        unique = sorted(set(texts))
        tokens, cut = self.tokenize(unique)
        order = sorted(range(len(unique)), key=lambda i: len(tokens[i]))
        encoder = self.text_encoder(**options)
        step = encoder.batch_size
        batches = (
            self._module.pad_tokens(
                [tokens[i] for i in order[start : start + step]], self.config
            )
            for start in range(0, len(order), step)
        )
        rows = self._gather(encoder.stream(batches), "text", self.embed_dim)
        embedded_at = {unique[i]: row for row, i in enumerate(order)}
        was_cut = dict(zip(unique, cut))
        return (
            rows[[embedded_at[text] for text in texts]],
            np.array([was_cut[text] for text in texts], bool),
        )

    def _gather(
        self, results: Iterator[np.ndarray], kind: str, width: int
    ) -> np.ndarray:
        rows = np.concatenate([np.zeros((0, width), np.float32), *results])
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{self.name} ({self.dtype}) gives an embedding that is NaN or "
                f"infinite for {len(bad)} of {len(rows)} {kind}s: its weights are "
                "damaged"
            )
        return rows


def load_towers(
    source: str | Path,
    dtype: str = "float32",
    *,
    revision: str | None = None,
    family: str = "",
    text_cleaning: str = "",
) -> Towers:
    """Loads the towers of a checkpoint.

    Args:
      source: a folder, a Hugging Face repository id, or a short name such as
        "ViT-L-14" (see `SHORT_NAMES`); a file of weights in a folder (or an index of
        shards) where it has several.
      dtype: "float32" (the reference) or "bfloat16" (fast on accelerators).
      revision: branch, tag or commit of a repository.
      family: who reads it: a name of `families()`, or `package.module[:name]`; "" asks
        each of ours.
      text_cleaning: how texts are cleaned before they are tokenised, a name of
        `text_cleaning.CLEANINGS`; "" cleans as in the checkpoint's training.

    Raises:
      ValueError: for an unknown source, dtype, family or cleaning; a checkpoint that no
        family reads, that has no safetensors, or whose configuration, tokenizer or
        tensors are not what the family needs (with the difference); a folder with two
        sets of weights that differ.
    """
    name = str(source)
    choices.check("dtype", dtype, DTYPES)
    checkpoint = open_checkpoint(
        SHORT_NAMES.get(name, name), revision, short_names=SHORT_NAMES
    )
    family, module, config = read_config(checkpoint, family)
    layout = checkpoint.layout(module.LAYOUTS)
    if layout is None:
        raise ValueError(f"{name}: {family} reads none of its files")
    weights = checkpoint.weights(layout)
    shapes = module.param_shapes(config, DTYPES[dtype])
    params = read_params(checkpoint.source, weights, shapes, layout)
    for other in checkpoint.others(module.LAYOUTS):
        two_sets.compare(params, config, checkpoint.reads(layout), other, module)
    tokenizer = module.load_tokenizer(checkpoint, config)
    of_tokenizer = map(checkpoint.folder.joinpath, module.TOKENIZER_FILES)
    digested = [*weights, *(p for p in of_tokenizer if p.is_file())]
    if not checkpoint.remote:
        # Absolute, so that a saved head finds it from anywhere.
        name = str(checkpoint.folder.resolve() / checkpoint.chosen)
    trained = getattr(module, "text_cleaning", lambda config: "none")
    return Towers(
        name,
        family,
        module,
        config,
        params,
        dtype,
        tokenizer,
        digested,
        text_cleaning or trained(config),
    )
