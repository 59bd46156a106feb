"""What the general ViT is: everything that differs between its checkpoints."""

from __future__ import annotations

import dataclasses

from item_jax.towers.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The image tower.

    Attributes:
      transformer: its blocks.
      image_size: S, the side of a view in pixels.
      patch_size: the side of a patch in pixels.
      pool: "class" (the class token), "mean" (of the patches, beside a class token) or
        "attention" (SigLIP's; there is no class token then).
      ln_pre: whether a LayerNorm precedes the blocks.
      ln_after_pool: whether the last LayerNorm comes behind pooling, not before it.
      patch_bias: whether the patch embedding has one.
      projection: whether a projection follows.
    """

    transformer: TransformerConfig
    image_size: int
    patch_size: int
    pool: str
    ln_pre: bool
    ln_after_pool: bool
    patch_bias: bool
    projection: bool

    @property
    def class_token(self) -> bool:
        """Whether a class token precedes the patches."""
        return self.pool != "attention"

    @property
    def tokens(self) -> int:
        """The length of the sequence."""
        return (self.image_size // self.patch_size) ** 2 + self.class_token


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The text tower.

    Attributes:
      transformer: its blocks.
      context_length: the longest text in tokens.
      vocab_size: rows of the token table.
      causal: whether a position sees only itself and those before it.
      eos_token_id: the token whose first occurrence is pooled; None pools the last
        position, padding or not.
      projection: "none", "linear" or "affine" (with a bias).
      cleaning: of texts, a name of `text_cleaning.CLEANINGS`.
      zero_sep: whether the tokenizer's separator becomes token 0 (CLIPA).
    """

    transformer: TransformerConfig
    context_length: int
    vocab_size: int
    causal: bool
    eos_token_id: int | None
    projection: str
    cleaning: str
    zero_sep: bool

    @property
    def may_be_cut(self) -> bool:
        """Whether what stands behind a text's EOS changes nothing."""
        return self.causal and self.eos_token_id is not None


@dataclasses.dataclass(frozen=True)
class Config:
    """Two ViTs as their checkpoint describes them.

    Attributes:
      embed_dim: D, the width of the joint space.
      image_mean, image_std: pixel statistics on [0, 1], one per channel.
      vision, text: the towers.
      geometry: how the whole image became a view in the checkpoint's training, a name
        of `item_jax.views.GEOMETRIES`. It is no part of the towers.
    """

    embed_dim: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    vision: VisionConfig
    text: TextConfig
    geometry: str

    @property
    def image_size(self) -> int:
        """S, the side of a view in pixels."""
        return self.vision.image_size


def digest_text(config: Config) -> str:
    """Returns the configuration as text, for `Towers.checkpoint_sha256`.

    Heads and caches store that checksum: a new field may only add to it where it is not
    at the value that every model had before.
    """
    fields = dataclasses.asdict(config)
    del fields["geometry"]  # views are stored with their own
    return repr(fields)
