"""Captioners, one file each, found by name.

An adapter is a module with

    MODEL_TYPES            transformers' `model_type`s it takes; () takes all
    class Captioner(model, *, dtype, local_rank, preset, prompt):
        settings           what `run.json` says of it: id, revision, decoding, ...
        retry_prompt       a prompt to try once when a caption comes out empty, or None
        prepare(image)     uint8 [H, W, 3] -> what `caption` takes; in worker threads
        caption(prepared, prompt=None)   a list of those -> a list of texts

`prepare` touches no tokenizer: the fast ones may not be used by two threads at once.
"""

PRESETS = {
    # transformers' documented use of BLIP-2, with 30 tokens for its 20, which truncate.
    "hf-greedy": {"num_beams": 1, "max_new_tokens": 30},
    # Blip2OPT.generate of salesforce/LAVIS.
    "lavis-beam": {"num_beams": 5, "max_new_tokens": 30, "min_new_tokens": 1},
    # BLIP_Decoder.generate of salesforce/BLIP; its 10 to 30 tokens count the prompt.
    "blip-beam": {"num_beams": 3, "max_new_tokens": 30, "min_new_tokens": 10},
}
"""Decoding settings by name. None samples, so a caption depends on nothing random."""

RETRY_PROMPT = "a photo of"  # salesforce/LAVIS, thread 132: for empty captions


def generate_options(preset: str, **changes) -> dict:
    """Returns what `generate` is called with.

    The sampling fields are unset because a checkpoint may bring its own.
    """
    unset = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return unset | PRESETS[preset] | changes
