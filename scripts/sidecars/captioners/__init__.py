"""Captioners, one file each, found by name.

A captioner is a class

    class Captioner(model, *, dtype, local_rank, preset, prompt):
        settings           dict for `run.json`: id, revision, decoding, ...
        retry_prompt       a prompt for a second try when a caption is empty, or None
        prepare(image)     uint8 [H, W, 3] -> what `caption` takes; runs in threads
        caption(prepared, prompt=None)   a list of those -> a list of str, as long

and a file here may also have `MODEL_TYPES`, the `model_type`s of transformers that it
handles, for `--captioner auto`. A captioner of your own needs no file here:
`--captioner package.module` takes the class `Captioner` of that module,
`package.module:Name` another one.

`prepare` must not use a fast tokenizer, which two threads may not use at once.
"""

from __future__ import annotations

import copy
from typing import Any

PRESETS = {
    # The documented use of BLIP-2 in transformers, with 30 new tokens for its default
    # of 20, which truncates captions.
    "hf-greedy": {"num_beams": 1, "max_new_tokens": 30},
    # Blip2OPT.generate of salesforce/LAVIS.
    "lavis-beam": {"num_beams": 5, "max_new_tokens": 30, "min_new_tokens": 1},
    # BLIP_Decoder.generate of salesforce/BLIP; its 10 to 30 tokens include the prompt.
    "blip-beam": {"num_beams": 3, "max_new_tokens": 30, "min_new_tokens": 10},
}
"""Decoding settings by name. None of them samples, so captions are deterministic."""

RETRY_PROMPT = "a photo of"  # for empty captions: salesforce/LAVIS, issue 132


def generate_options(preset: str, **changes: Any) -> dict[str, Any]:
    """Returns the arguments of `generate`.

    The sampling fields are unset because a checkpoint may bring its own.

    Args:
      preset: a name of `PRESETS`.
      **changes: what overrides the preset.
    """
    unset = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return unset | PRESETS[preset] | changes


def effective(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that `generate` will work with, for `run.json`.

    A checkpoint may bring a `generation_config.json`; what `options` does not set comes
    from there, such as a repetition penalty that makes "greedy" something else.

    Args:
      model: the one whose `generate` is called; of BLIP and BLIP-2 the inner one.
      options: of `generate_options`.

    Returns:
      Every setting that differs from the defaults of transformers.
    """
    settings = copy.deepcopy(model.generation_config)
    settings.update(**options)
    found = settings.to_diff_dict()
    return {k: v for k, v in sorted(found.items()) if k not in _NOT_DECODING}


_NOT_DECODING = (
    *("transformers_version", "_from_model_config", "return_dict", "use_cache"),
    *("output_attentions", "output_hidden_states"),
)
