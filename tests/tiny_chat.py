"""Tiny random chat models whose processors need torchvision, as checkpoints on disk.

Beside `tiny_captioners.py`, for programs that run in the environment of the fixture
`references`. The number of image tokens depends on the size of the picture in all five.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as hf
from tiny_captioners import WORDS, _byte_vocab, _say_only, noise

_ENDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=3)
_TINY = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
)
_TEXT = dict(_TINY, num_key_value_heads=2, max_position_embeddings=1024, **_ENDS)


def _tokenizer(*special: str, **named: str) -> hf.GPT2Tokenizer:
    """A tokenizer of bytes and a few words.

    Args:
      *special: tokens that are never taken apart.
      **named: those that the processor asks for by name.
    """
    tokens = (*named.values(), *special)
    tokenizer = hf.GPT2Tokenizer(
        vocab=_byte_vocab("<unk>", "<s>", "</s>", "<pad>", *tokens),
        merges=[],
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    return tokenizer


def _template(image: str) -> str:
    """The layout that the chat templates of these models share."""
    return (
        "{% for message in messages %}<s>{{ message['role'] }}\n"
        "{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}"
        "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
    )


def _save(model, processor, seed: int, scale: float, folder: Path) -> Path:
    """Writes a checkpoint whose language model chooses among a few words."""
    noise(model, seed=seed, scale=scale)
    vocab = processor.tokenizer.get_vocab()
    _say_only(model.lm_head, [vocab["\u0120" + w] for w in WORDS] + [2])
    with torch.no_grad():  # or no picture would be told from another
        for name, p in model.named_parameters():
            if any(part in name for part in ("merger", "projector", "connector")):
                p.mul_(4)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


_QWEN_TOKENS = dict(
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    vision_start_token="<|vision_start|>",
    vision_end_token="<|vision_end|>",
)


def _qwen(processor_cls, config_cls, model_cls, image, video, vision, text):
    tokenizer = _tokenizer(**_QWEN_TOKENS)
    template = _template("<|vision_start|><|image_pad|><|vision_end|>")
    processor = processor_cls(image, tokenizer, video, chat_template=template)
    ids = {
        f"{n}_id": tokenizer.convert_tokens_to_ids(t) for n, t in _QWEN_TOKENS.items()
    }
    rope = dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1])
    config = config_cls(
        vision_config=vision,
        text_config=dict(
            _TEXT,
            vocab_size=len(tokenizer),
            rope_parameters=rope | text.pop("rope", {}),
            **text,
        ),
        **ids,
        **_ENDS,
    )
    return model_cls(config), processor


_QWEN_VISION = dict(
    depth=2, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16
)


def qwen2_5_vl(folder: Path) -> Path:
    size = {"shortest_edge": 28 * 28, "longest_edge": 8 * 28 * 28}
    model, processor = _qwen(
        hf.Qwen2_5_VLProcessor,
        hf.Qwen2_5_VLConfig,
        hf.Qwen2_5_VLForConditionalGeneration,
        hf.Qwen2VLImageProcessor(size=size),
        hf.Qwen2VLVideoProcessor(size=size),
        dict(_QWEN_VISION, window_size=56, fullatt_block_indexes=[1]),
        {},
    )
    return _save(model, processor, 1, 1.2, folder)


def qwen3_vl(folder: Path) -> Path:
    size = {"shortest_edge": 32 * 32, "longest_edge": 8 * 32 * 32}
    model, processor = _qwen(
        hf.Qwen3VLProcessor,
        hf.Qwen3VLConfig,
        hf.Qwen3VLForConditionalGeneration,
        hf.Qwen2VLImageProcessor(size=size, patch_size=16),
        hf.Qwen3VLVideoProcessor(size=size, patch_size=16),
        dict(_QWEN_VISION, num_position_embeddings=16, deepstack_visual_indexes=[0]),
        dict(head_dim=8, rope=dict(mrope_interleaved=True)),
    )
    return _save(model, processor, 2, 1.2, folder)


def internvl(folder: Path) -> Path:
    tokenizer = _tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(
            size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4
        ),
        tokenizer,
        hf.InternVLVideoProcessor(size={"height": 28, "width": 28}),
        image_seq_length=4,
        chat_template=_template("<IMG_CONTEXT>\n"),
    )
    config = hf.InternVLConfig(
        vision_config=dict(_TINY, image_size=28, patch_size=7),
        text_config=dict(_TEXT, model_type="qwen2", vocab_size=len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
        **_ENDS,
    )
    model = hf.InternVLForConditionalGeneration(config)
    return _save(model, processor, 5, 0.8, folder)


def llava_onevision(folder: Path) -> Path:
    tokenizer = _tokenizer(image_token="<image>", video_token="<video>")
    grid = [[28, 28], [28, 56], [56, 28], [56, 56]]
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(
            size={"height": 28, "width": 28}, image_grid_pinpoints=grid
        ),
        tokenizer,
        hf.LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28}),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_template("<image>\n"),
    )
    config = hf.LlavaOnevisionConfig(
        vision_config=dict(
            _TINY,
            model_type="siglip_vision_model",
            image_size=28,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=dict(_TEXT, model_type="qwen2", vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        **_ENDS,
    )
    model = hf.LlavaOnevisionForConditionalGeneration(config)
    return _save(model, processor, 1, 0.8, folder)


def smolvlm(folder: Path) -> Path:
    tokenizer = _tokenizer(
        *(f"<row_{i}_col_{j}>" for i in (1, 2, 3) for j in (1, 2, 3)),
        image_token="<image>",
        video_token="<video>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    processor = hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
        ),
        tokenizer,
        hf.SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=_template("<image>"),
    )
    config = hf.SmolVLMConfig(
        vision_config=dict(_TINY, image_size=28, patch_size=7),
        text_config=dict(_TEXT, model_type="llama", vocab_size=len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        **_ENDS,
    )
    model = hf.SmolVLMForConditionalGeneration(config)
    return _save(model, processor, 1, 0.8, folder)


CHAT_MODELS = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "llava_onevision": llava_onevision,
    "smolvlm": smolvlm,
}
