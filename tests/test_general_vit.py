"""SigLIP, SigLIP 2 and MetaCLIP 2 against transformers, on tiny random weights.

`test_open_clip.py` compares the files of open_clip.
"""

import json

import jax
import numpy as np
import pytest
import tiny_towers
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from item_jax.towers import general_vit
from item_jax.towers.attention import HEADS_FIRST, WRITTEN_OUT
from item_jax.towers.checkpoint import open_checkpoint
from item_jax.towers.outputs import embedded
from item_jax.towers.text_cleaning import CLEANINGS
from item_jax.towers.towers import load_towers

MODELS = {
    "siglip": lambda folder: tiny_towers.save_siglip(folder, 1),
    "siglip_2": lambda folder: tiny_towers.save_siglip(folder, 2),
    "metaclip_2": tiny_towers.save_metaclip_2,
}
TEXTS = ["a dog", "a small cat on the mat", "", "the sea " * 20]


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    """A model of transformers and its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    return MODELS[request.param](folder), folder


@pytest.fixture
def copy(tmp_path):
    """Returns a function that writes a checkpoint of `MODELS` to be changed."""

    def make(name):
        MODELS[name](tmp_path)
        return tmp_path

    return make


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def views(count, side):
    shape = (count, side, side, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reference(model, folder, config, images, texts):
    pixels = torch.from_numpy(images).float() / 255
    pixels -= torch.tensor(config.image_mean)
    pixels /= torch.tensor(config.image_std)
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts,
        padding="max_length",
        truncation=True,
        max_length=config.text.context_length,
        return_tensors="pt",
    ).input_ids
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels.permute(0, 3, 1, 2))
        text = model.get_text_features(input_ids=tokens)
    return image.pooler_output.numpy(), text.pooler_output.numpy()


def test_parity_with_transformers(saved):
    model, folder = saved
    for dtype in ("float32", "bfloat16"):
        towers = load_towers(folder, dtype)
        assert towers.family == "general_vit"
        images = views(3, towers.image_size)
        expected = reference(model, folder, towers.config, images, TEXTS)
        one = {"devices": jax.devices()[:1], "batch_size": 4}
        found = towers.encode_image(images, **one), towers.encode_text(TEXTS, **one)
        for ours, theirs in zip(map(unit, found), map(unit, expected)):
            if dtype == "float32":
                assert np.abs(ours - theirs).max() <= 1e-5
            else:
                assert (ours * theirs).sum(-1).min() >= 0.999


@pytest.mark.slow
def test_a_tpus_layout_gives_the_same(saved):
    towers = load_towers(saved[1])
    tokens = general_vit.pad_tokens(towers.tokenize(TEXTS)[0], towers.config)
    for tower, module, rows in (
        ("vision", general_vit.VisionTower, views(2, towers.image_size)),
        ("text", general_vit.TextTower, tokens),
    ):
        written_out, heads_first = (
            embedded(
                module(towers.config, np.float32, implementation),
                towers.params[tower],
                rows,
            )
            for implementation in (WRITTEN_OUT, HEADS_FIRST)
        )
        np.testing.assert_allclose(unit(heads_first), unit(written_out), atol=2e-6)


def test_what_siglip_sees_of_a_text(copy):
    """All of its context, padding too: no text may be cut behind its EOS."""
    towers = load_towers(copy("siglip"))
    tokens, cut = towers.tokenize(TEXTS)
    assert [len(row) for row in tokens] == [16] * 4
    assert tokens[0][2:] == [1] * 14  # EOS, and SigLIP pads with it
    assert cut.tolist() == [False] * 3 + [True]
    assert general_vit.pad_tokens(tokens[:1], towers.config).shape == (1, 16)
    short = np.array([tokens[0][:4]], np.int32)
    whole = np.array([tokens[0]], np.int32)
    tower = general_vit.TextTower(towers.config, np.float32)
    cut_emb, emb = (
        np.asarray(embedded(tower, towers.params["text"], rows))
        for rows in (short, whole)
    )
    assert np.abs(unit(cut_emb) - unit(emb)).max() > 1e-3
    np.testing.assert_allclose(
        unit(towers.encode_text(TEXTS[:1])), unit(emb), atol=1e-6
    )


def test_texts_of_metaclip_2_are_cut_behind_their_eos(copy):
    towers = load_towers(copy("metaclip_2"))
    tokens, _ = towers.tokenize(TEXTS)
    assert tokens[0] == [0, 4, 5, 2]
    assert general_vit.pad_tokens(tokens[:1], towers.config).shape == (1, 8)


def test_the_geometry_and_statistics_of_siglip(copy):
    folder = copy("siglip")
    config = load_towers(folder).config
    assert config.geometry == "squash" and config.image_mean == (0.5, 0.5, 0.5)
    pre = {"size": {"height": 34, "width": 34}, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(pre))
    assert load_towers(folder).geometry == "squash_bilinear"


@pytest.mark.parametrize(
    "named, cleaning",
    [
        ("SiglipTokenizer", "canonicalize"),
        ("GemmaTokenizer", "lowercase"),
        ("Siglip2Tokenizer", "lowercase"),
    ],
)
def test_texts_are_cleaned_as_the_tokenizer_was_trained(copy, named, cleaning):
    folder = copy("siglip")
    edit(folder / "tokenizer_config.json", tokenizer_class=named)
    config = general_vit.read_config(open_checkpoint(str(folder)))
    assert config.text.cleaning == cleaning


def test_cleanings():
    text = "It’s  a “Dog_house” &amp;amp; more\n"
    cleaned = {name: clean(text) for name, clean in CLEANINGS.items()}
    assert cleaned == {
        "none": text,
        "lowercase": text.lower(),
        "whitespace": 'It\'s a "Dog_house" & more',
        "whitespace_underscore": 'It\'s a "Dog house" & more',
        "lower": 'it\'s a "dog_house" & more',
        "canonicalize": "its a dog house more",
    }


def test_the_class_tokens_of_metaclip_2(copy):
    towers = load_towers(copy("metaclip_2"))
    shapes = {
        "embedding": (32,),
        "pooled": (64,),
        "class_tokens": (2, 64),
        "block_tokens": (2, 32),
    }
    assert towers.image_outputs == shapes
    images = views(2, 32)
    found = towers.encode_image(images, outputs=shapes)
    np.testing.assert_allclose(
        found["pooled"] @ towers.params["vision"]["projection"]["kernel"],
        towers.encode_image(images),
        atol=1e-5,
    )


def test_siglip_has_its_embedding_alone(copy):
    towers = load_towers(copy("siglip"))
    assert towers.image_outputs == {"embedding": (64,)}
    with pytest.raises(ValueError, match="'pooled'; allowed: embedding"):
        towers.encode_image(views(1, 34), outputs=["pooled"])


# ---- What is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name, where, key, value, words",
    [
        ("siglip", "vision_config", "vision_use_head", False, "'vision_use_head'"),
        (
            "siglip",
            "vision_config",
            "num_patches",
            256,
            "'num_patches': 256 is not und",
        ),
        ("siglip", "text_config", "projection_size", 48, "48 .*'image|no projection"),
        ("siglip", "text_config", "hidden_act", "relu", "hidden_act 'relu'"),
        ("siglip", "text_config", "vocab_size", 10**9, "'vocab_size' is 1000000000"),
        ("siglip", "vision_config", "num_attention_heads", 5, "5 heads do not divide"),
        ("siglip", "vision_config", "num_hidden_layers", 0, "'num_hidden_layers' is 0"),
        ("metaclip_2", "text_config", "rope", 1, "'rope': 1 is not understood"),
        ("metaclip_2", "text_config", "eos_token_id", 3, "configuration pools at 3"),
        ("metaclip_2", "text_config", "vocab_size", 50, "tokens, .* 50 rows|misshapen"),
    ],
)
def test_configurations_that_are_refused(copy, name, where, key, value, words):
    folder = copy(name)
    raw = json.loads((folder / "config.json").read_text())
    raw[where][key] = value
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=words):
        load_towers(folder)


def test_naflex_is_named(copy):
    folder = copy("siglip_2")
    edit(folder / "config.json", model_type="siglip2")
    with pytest.raises(ValueError, match="NaFlex.*google/siglip2-base-patch16-224"):
        load_towers(folder)


def test_a_tokenizer_of_another_model_is_refused(copy):
    """One of few tokens would never use most rows; another EOS is never pooled."""
    folder = copy("siglip")
    made = PreTrainedTokenizerFast.from_pretrained(folder)
    raw = json.loads(made.backend_tokenizer.to_str())
    raw["model"]["vocab"] = {k: v for k, v in raw["model"]["vocab"].items() if v < 90}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="has 90 tokens, but .* they are not of one"):
        load_towers(folder)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="has no tokenizer: none of tokenizer.json"):
        load_towers(folder)


def test_a_token_beyond_the_vocabulary_names_the_text(copy):
    folder = copy("siglip")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    towers = load_towers(folder)
    towers.encode_text(["a dog"])
    with pytest.raises(ValueError, match="makes token 107 of 'a zebra', .* 107 rows"):
        towers.encode_text(["a dog", "a zebra"])


def test_a_tokenizer_without_its_eos_is_a_warning(copy):
    folder = copy("siglip_2")
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.warns(UserWarning, match="with token 4, not with its EOS 1"):
        load_towers(folder)


def test_a_damaged_tokenizer_names_the_file(copy):
    folder = copy("metaclip_2")
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(
        ValueError, match="cannot read the tokenizer from tokenizer.json"
    ):
        load_towers(folder)


def test_reading_is_strict(copy):
    folder = copy("siglip")
    tensors = load_file(folder / "model.safetensors")
    probe = tensors.pop("vision_model.head.probe")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 differences\):\n  missing .*head.probe"):
        load_towers(folder)
    odd = {"odd": probe, "vision_model.head.probe": probe}
    save_file(tensors | odd, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 differences\):\n  extra odd"):
        load_towers(folder)


# ---- open_clip's configurations; its numbers are compared in test_open_clip.py ------

CLIPA = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 8,
            "width": 64,
            "layers": 2,
            "head_width": 16,
            "no_ln_pre": True,
            "pool_type": "avg",
            "final_ln_after_pool": True,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 100,
            "width": 64,
            "heads": 4,
            "layers": 2,
            "hf_tokenizer_name": "bert-base-uncased",
            "tokenizer_kwargs": {"strip_sep_token": True},
            "pool_type": "last",
            "no_causal_mask": True,
        },
    },
    "preprocess_cfg": {"interpolation": "bilinear", "resize_mode": "squash"},
}
SIGLIP = {
    "model_cfg": {
        "embed_dim": 768,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 256,
            "timm_model_name": "vit_base_patch32_siglip_256",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 64,
            "vocab_size": 256000,
            "hf_tokenizer_name": "timm/ViT-B-32-SigLIP2-256",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 768,
            "heads": 12,
            "layers": 12,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    },
    "preprocess_cfg": {},
}


def config_of(folder, raw):
    (folder / "open_clip_config.json").write_text(json.dumps(raw))
    return general_vit.read_config(open_checkpoint(str(folder)))


def changed(raw, dotted, value):
    raw = json.loads(json.dumps(raw))
    *outer, last = dotted.split(".")
    row = raw["model_cfg"]
    for key in outer:
        row = row.setdefault(key, {})
    row[last] = value
    return raw


def test_the_configurations_of_open_clip(tmp_path):
    clipa, siglip = config_of(tmp_path, CLIPA), config_of(tmp_path, SIGLIP)
    assert (clipa.vision.pool, clipa.vision.ln_after_pool) == ("mean", True)
    assert clipa.text.zero_sep and not clipa.text.may_be_cut
    assert clipa.geometry == "squash_bilinear"
    assert clipa.vision.transformer.activation == "gelu"
    assert siglip.vision.transformer.activation == "gelu_pytorch_tanh"
    assert siglip.text.transformer.activation == "gelu_pytorch_tanh"
    assert siglip.text.transformer.eps == siglip.vision.transformer.eps == 1e-6


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "raw, key, value, words",
    [
        (CLIPA, "vision_cfg.pool_type", "none", "pool_type 'none'; allowed: tok, avg"),
        (CLIPA, "vision_cfg.qk_norm", True, "'qk_norm': True is not supported"),
        (CLIPA, "vision_cfg.no_ln_pre", 1.5, "no_ln_pre 1.5"),
        (CLIPA, "text_cfg.pool_type", "argmax", "pool_type 'argmax'; allowed: eos"),
        (CLIPA, "text_cfg.embed_cls", True, "'embed_cls': True is not supported"),
        (CLIPA, "text_cfg.norm_kwargs", {"bias": False}, "norm_kwargs: 'bias': False"),
        (CLIPA, "text_cfg.tokenizer_mode", "clips", "'tokenizer_mode': 'clips'"),
        (CLIPA, "text_cfg.tokenizer_kwargs", {"language": "de"}, "'language': 'de'"),
        (CLIPA, "text_cfg.proj_bias", True, "proj_bias True; allowed: False"),
        (
            SIGLIP,
            "vision_cfg.timm_model_name",
            "vit_base_patch0_siglip_256",
            "timm_model_name 'vit_base_patch0_siglip_256'; .*patch32_siglip_256",
        ),
        (SIGLIP, "vision_cfg.timm_pool", "avg", "'timm_pool': 'avg' is not supported"),
        (SIGLIP, "vision_cfg.image_size", 224, "'image_size' is 224, but .* of 256"),
        (SIGLIP, "text_cfg.act_kwargs", {"inplace": True}, "act_kwargs: 'inplace'"),
        (SIGLIP, "embed_dim", 512, "no projection and a width of 768, .* has 512"),
    ],
)
def test_configurations_of_open_clip_that_are_refused(tmp_path, raw, key, value, words):
    with pytest.raises(ValueError, match=words):
        config_of(tmp_path, changed(raw, key, value))


def test_the_activation_of_metaclip_2_is_not_guessed_in_silence(tmp_path):
    raw = changed(CLIPA, "vision_cfg", {"width": 64, "layers": 2, "head_width": 16})
    raw["model_cfg"]["vision_cfg"] |= {"image_size": 32, "patch_size": 8}
    raw = changed(raw, "text_cfg.pool_type", "eos")
    with pytest.warns(UserWarning, match="does not say quick_gelu; guessed false"):
        config = config_of(tmp_path, raw)
    assert config.text.eos_token_id == 2 and config.vision.pool == "class"
    folder = tmp_path / "vit_huge.metaclip2_worldwide"
    folder.mkdir()
    with pytest.warns(UserWarning, match="guessed true"):
        assert config_of(folder, raw).text.transformer.activation == "quick_gelu"
