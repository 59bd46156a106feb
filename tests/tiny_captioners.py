"""Tiny random captioners and grounders, written as whole checkpoints on disk.

They load through the same `from_pretrained` as the published ones. Their output is
noise; the code around them is the real one.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
import transformers as hf
from tokenizers.processors import TemplateProcessing

WORDS = (
    *("a", "the", "man", "woman", "dog", "cat", "cats", "wave", "red", "ball", "on"),
    *("top", "of", "surfboard", "and", "rides", "sleeping", "couch", "photo", "two"),
)
CLS, SEP, DOT, QUESTION = 101, 102, 1012, 1029  # of bert-base-uncased, hard-coded


def bert_vocab() -> dict[str, int]:
    vocab = {"[PAD]": 0, "[UNK]": 100, "[CLS]": CLS, "[SEP]": SEP, "[MASK]": 103}
    vocab |= {".": DOT, "?": QUESTION}
    letters = (*string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase))
    vocab |= {w: 200 + i for i, w in enumerate((*dict.fromkeys((*WORDS, *letters)),))}
    vocab |= {c: 400 + i for i, c in enumerate(",;:!()-'\"0123456789")}
    free = (i for i in range(1030) if i not in set(vocab.values()))
    return vocab | {f"[unused{i}]": i for i in free}


def _byte_vocab(*special: str) -> dict[str, int]:
    """Special tokens, GPT-2's byte alphabet (space is G with a dot), whole words."""
    letters = [chr(b) for b in range(33, 127)] + ["\u0120", "\u010a"]
    words = [f"\u0120{w}" for w in WORDS]
    return {t: i for i, t in enumerate((*special, *letters, *words))}


def noise(model, seed=0, scale=0.3):
    """Random weights that give varied output: the usual ones are too small."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
    return model.eval()


def _say_only(head, ids) -> None:
    """Lets a language model choose among a few tokens."""
    with torch.no_grad():
        others = torch.ones(len(head.weight), dtype=torch.bool)
        others[list(ids)] = False
        if getattr(head, "bias", None) is None:
            head.weight[others] = 0
        else:
            head.bias[others] = -1e4


def blip(folder: Path) -> Path:
    vocab = bert_vocab()
    config = hf.BlipConfig(
        text_config=dict(
            vocab_size=1030,
            hidden_size=16,
            encoder_hidden_size=16,
            intermediate_size=16,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            bos_token_id=104,
            sep_token_id=SEP,
            eos_token_id=SEP,
            pad_token_id=0,
        ),
        vision_config=dict(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        ),
        projection_dim=16,
    )
    model = noise(hf.BlipForConditionalGeneration(config), scale=0.7)
    decoder = model.text_decoder.cls.predictions.decoder
    _say_only(decoder, [vocab[w] for w in WORDS] + [SEP])
    hf.BlipProcessor(
        hf.BlipImageProcessor(size={"height": 32, "width": 32}),
        hf.BertTokenizer(vocab=vocab),
    ).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


_BLIP2_VISION = dict(
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
)
_BLIP2_QFORMER = dict(
    vocab_size=99,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
)


def _byte_tokenizer(*special: str, **options) -> hf.GPT2Tokenizer:
    """Ends every text with </s>, as T5's and BART's do."""
    tokenizer = hf.GPT2Tokenizer(
        vocab=_byte_vocab("<s>", "<pad>", "</s>", "<unk>", *special),
        merges=[],
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        **options,
    )
    end = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.backend_tokenizer.post_processor = end
    return tokenizer


def blip2_t5(folder: Path) -> Path:
    """BLIP-2 with an encoder and a decoder, as Salesforce/blip2-flan-t5-xl."""
    tokenizer = _byte_tokenizer()
    vocab = tokenizer.get_vocab()
    image = hf.BlipImageProcessor(size={"height": 28, "width": 28})
    processor = hf.Blip2Processor(image, tokenizer, num_query_tokens=4)
    tokenizer = processor.tokenizer  # has <image> now
    config = hf.Blip2Config(
        vision_config=_BLIP2_VISION,
        qformer_config=_BLIP2_QFORMER,
        text_config=dict(
            model_type="t5",
            vocab_size=len(tokenizer),
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=2,
            num_heads=2,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = noise(hf.Blip2ForConditionalGeneration(config), seed=5, scale=0.7)
    with torch.no_grad():
        model.language_projection.weight *= 10
    words = [vocab["\u0120" + w] for w in WORDS] + [2]
    _say_only(model.language_model.get_output_embeddings(), words)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def blip2(folder: Path) -> Path:
    vocab = _byte_vocab("<s>", "<pad>", "</s>", "<unk>")
    tokenizer = hf.GPT2Tokenizer(
        vocab=vocab, merges=[], bos_token="</s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>",
    )  # fmt: skip
    image = hf.BlipImageProcessor(size={"height": 28, "width": 28})
    processor = hf.Blip2Processor(image, tokenizer, num_query_tokens=4)
    tokenizer = processor.tokenizer  # has <image> now
    config = hf.Blip2Config(
        vision_config=_BLIP2_VISION,
        qformer_config=_BLIP2_QFORMER,
        text_config=dict(
            model_type="opt",
            vocab_size=len(tokenizer),
            hidden_size=16,
            ffn_dim=16,
            word_embed_proj_dim=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            bos_token_id=2,
            pad_token_id=1,
            eos_token_id=vocab["\u010a"],  # a newline, as in the released checkpoint
        ),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = noise(hf.Blip2ForConditionalGeneration(config), seed=5, scale=1.0)
    with torch.no_grad():  # or no picture would be told from another
        model.language_projection.weight *= 10
    words = [vocab["\u0120" + w] for w in WORDS] + [vocab["\u010a"]]
    _say_only(model.language_model.get_output_embeddings(), words)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


_CLIP_VISION = dict(
    model_type="clip_vision_model",
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
    projection_dim=16,
)
_LLAMA = dict(
    model_type="llama",
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=3,
)


def llava(folder: Path) -> Path:
    vocab = _byte_vocab("<unk>", "<s>", "</s>", "<pad>", "<image>")
    tokenizer = hf.GPT2Tokenizer(
        vocab=vocab, merges=[], bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=LLAVA_TEMPLATE,
    )
    config = hf.LlavaConfig(
        vision_config=_CLIP_VISION,
        text_config=dict(_LLAMA, vocab_size=len(tokenizer)),
        image_token_index=vocab["<image>"],
    )
    model = noise(hf.LlavaForConditionalGeneration(config), seed=4)
    _say_only(model.lm_head, [vocab["\u0120" + w] for w in WORDS] + [vocab["</s>"]])
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def florence2(folder: Path) -> Path:
    image = hf.CLIPImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False
    )
    image.image_seq_length = 5  # 2 x 2 patches of the last stage, and their mean
    tokenizer = _byte_tokenizer(
        "<image>", extra_special_tokens={"image_token": "<image>"}
    )
    vocab = tokenizer.get_vocab()
    processor = hf.Florence2Processor(image, tokenizer)
    config = hf.Florence2Config(
        vision_config=dict(
            depths=(1, 1),
            patch_size=(7, 3),
            patch_stride=(4, 4),
            patch_padding=(3, 1),
            patch_prenorm=(False, True),
            embed_dim=(8, 16),
            num_heads=(2, 2),
            num_groups=(2, 2),
            window_size=4,
            projection_dim=16,
            max_position_embeddings=8,
            drop_path_rate=0.0,
        ),
        text_config=dict(
            model_type="bart",
            vocab_size=len(tokenizer),
            d_model=16,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_position_embeddings=256,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
        ),
        image_token_id=vocab["<image>"],
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    model = noise(hf.Florence2ForConditionalGeneration(config), seed=0, scale=1.0)
    with torch.no_grad():  # or no picture would be told from another
        for name, p in model.named_parameters():
            if "encoder_attn.out_proj.weight" in name:
                p.mul_(4)
    words = [vocab["\u0120" + w] for w in WORDS] + [2]
    _say_only(model.lm_head, words)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


_TINY = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
)
_SIGLIP_VISION = dict(
    _TINY, model_type="siglip_vision_model", image_size=28, vision_use_head=False
)
_ENDS = dict(pad_token_id=0, eos_token_id=1, bos_token_id=2)
_GEMMA_TEXT = dict(
    _TINY, num_hidden_layers=2, num_key_value_heads=1, head_dim=8, **_ENDS
)


def _save(model, processor, words, folder: Path) -> Path:
    """Writes a checkpoint whose language model chooses among a few tokens."""
    _say_only(model.lm_head, words)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def paligemma(folder: Path) -> Path:
    vocab = _byte_vocab("<pad>", "<eos>", "<bos>", "<unk>", "<image>")
    tokenizer = hf.GPT2Tokenizer(
        vocab=vocab, merges=[], bos_token="<bos>", eos_token="<eos>",
        pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    image = hf.SiglipImageProcessor(size={"height": 28, "width": 28})
    image.image_seq_length = 4
    processor = hf.PaliGemmaProcessor(image, tokenizer)
    config = hf.PaliGemmaConfig(
        vision_config=dict(_SIGLIP_VISION, patch_size=14, projection_dim=16),
        text_config=dict(
            _GEMMA_TEXT,
            model_type="gemma",
            vocab_size=len(processor.tokenizer),
            max_position_embeddings=256,
        ),
        projection_dim=16,
        hidden_size=16,
        image_token_index=vocab["<image>"],
        **_ENDS,
    )
    model = noise(hf.PaliGemmaForConditionalGeneration(config), seed=8, scale=0.6)
    with torch.no_grad():
        model.model.multi_modal_projector.linear.weight *= 10
    return _save(model, processor, [vocab["\u0120" + w] for w in WORDS] + [1], folder)


def gemma3(folder: Path) -> Path:
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>", "<boi>", "<eoi>")
    vocab = _byte_vocab(*special)
    tokenizer = hf.GPT2Tokenizer(
        vocab=vocab, merges=[], bos_token="<bos>", eos_token="<eos>",
        pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={
            "image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>",
        },
    )  # fmt: skip
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(size={"height": 28, "width": 28}),
        tokenizer,
        image_seq_length=4,
        chat_template=LLAVA_TEMPLATE.replace("<image>\n", "<boi>"),
    )
    config = hf.Gemma3Config(
        vision_config=dict(_SIGLIP_VISION, patch_size=7),
        text_config=dict(
            _GEMMA_TEXT,
            model_type="gemma3_text",
            vocab_size=len(processor.tokenizer),
            max_position_embeddings=512,
            sliding_window=64,
        ),
        mm_tokens_per_image=4,
        boi_token_index=vocab["<boi>"],
        eoi_token_index=vocab["<eoi>"],
        image_token_index=vocab["<image>"],
        **_ENDS,
    )
    model = noise(hf.Gemma3ForConditionalGeneration(config), seed=2, scale=0.6)
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight *= 10
    return _save(model, processor, [vocab["\u0120" + w] for w in WORDS] + [1], folder)


def llava_next(folder: Path) -> Path:
    """LLaVA-NeXT (1.6): the number of image tokens depends on the image's shape."""
    vocab = _byte_vocab("<unk>", "<s>", "</s>", "<pad>", "<image>")
    tokenizer = hf.GPT2Tokenizer(
        vocab=vocab, merges=[], bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    grid = [[28, 56], [56, 28], [56, 56]]
    processor = hf.LlavaNextProcessor(
        hf.LlavaNextImageProcessor(
            size={"shortest_edge": 28},
            crop_size={"height": 28, "width": 28},
            image_grid_pinpoints=grid,
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=LLAVA_TEMPLATE,
    )
    config = hf.LlavaNextConfig(
        vision_config=_CLIP_VISION,
        text_config=dict(_LLAMA, vocab_size=len(tokenizer)),
        image_token_index=vocab["<image>"],
        image_grid_pinpoints=grid,
    )
    model = noise(hf.LlavaNextForConditionalGeneration(config), seed=4)
    words = [vocab["\u0120" + w] for w in WORDS] + [vocab["</s>"]]
    return _save(model, processor, words, folder)


# That of llava-hf/llava-1.5-7b-hf says the same of these messages.
LLAVA_TEMPLATE = (
    "{% for message in messages %}USER: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


CAPTIONERS = {
    "blip2": blip2,
    "blip2_t5": blip2_t5,
    "blip": blip,
    "llava": llava,
    "florence2": florence2,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "llava_next": llava_next,
}
