"""Checkpoints of others: what loads like its own library, and what is refused."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import CLIPModel

import item_jax
from item_jax import signatures, testing
from item_jax.fitted import TOY_TOWERS
from item_jax.towers import clip_vit, clip_vit_config
from item_jax.towers.checkpoint import open_checkpoint
from item_jax.towers.describe import describe
from item_jax.towers.towers import load_towers

KEY = "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.fixture
def hf(tiny_clip, tmp_path):
    """A copy of the tiny checkpoint in Hugging Face's format, to be changed."""
    shutil.copytree(tiny_clip[0], tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def open_clip(tiny_clip, tmp_path):
    """The same in open_clip's."""
    return testing.open_clip_twin(tiny_clip[0], tmp_path / "open_clip")


def edit(path, change):
    raw = json.loads(path.read_text()) if path.exists() else {}
    change(raw)
    path.write_text(json.dumps(raw))


def put(dotted, value):
    """Returns a change that sets `a.b.c` of a nested dictionary."""
    *outer, last = dotted.split(".")

    def change(raw):
        for key in outer:
            raw = raw.setdefault(key, {})
        raw[last] = value

    return change


def config_of(folder):
    return clip_vit.read_config(open_checkpoint(str(folder)))


def refused(folder, words):
    with pytest.raises(ValueError, match=words) as e:
        load_towers(folder)
    assert folder.name in str(e.value)


# ---- Hugging Face's configuration ---------------------------------------------------


def test_text_config_dict_overrides_as_in_transformers(hf):
    """Repositories of 2022 have both, and they may differ."""

    def change(raw):
        for part in ("text_config", "vision_config"):
            raw[f"{part}_dict"] = dict(raw[part])
            raw[part]["hidden_act"] = "gelu"
            raw[part]["layer_norm_eps"] = 0.1

    edit(hf / "config.json", change)
    model = CLIPModel.from_pretrained(hf).eval()
    towers = load_towers(hf)
    assert towers.config.vision.activation == "quick_gelu"
    assert towers.config.text.eps == model.config.text_config.layer_norm_eps == 1e-5
    views = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    x = torch.from_numpy(views).float().permute(0, 3, 1, 2) / 255
    mean, std = (
        torch.tensor(v)[:, None, None]
        for v in (towers.config.image_mean, towers.config.image_std)
    )
    with torch.no_grad():
        theirs = model.get_image_features(pixel_values=(x - mean) / std).pooler_output
    np.testing.assert_allclose(towers.encode_image(views), theirs, atol=1e-4)


def test_text_config_dict_has_the_defaults_of_transformers(hf):
    """OpenAI's own: EOS 2 in text_config, nothing in text_config_dict."""

    def change(raw):
        raw["text_config_dict"] = dict(raw["text_config"])
        del raw["text_config_dict"]["eos_token_id"]
        raw["text_config"]["eos_token_id"] = 2

    edit(hf / "config.json", change)
    expected = CLIPModel.from_pretrained(hf).config.text_config.eos_token_id
    assert config_of(hf).eos_token_id == expected == 49407


def test_openai_configs_with_the_wrong_eos(hf):
    edit(hf / "config.json", put("text_config.eos_token_id", 2))
    assert load_towers(hf).config.eos_token_id == 49407


# Beside the sizes, in each part of openai/clip-vit-large-patch14's config.json.
OPENAI_KEYS = """
architectures attention_dropout bad_words_ids chunk_size_feed_forward
cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dropout
early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
finetuning_task forced_bos_token_id forced_eos_token_id id2label initializer_factor
initializer_range label2id length_penalty max_length min_length no_repeat_ngram_size
num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
output_scores prefix problem_type remove_invalid_values repetition_penalty return_dict
return_dict_in_generate sep_token_id task_specific_params temperature tf_legacy_loss
tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype
torchscript transformers_version typical_p use_bfloat16
"""


def test_all_that_transformers_ever_wrote_is_known(hf, tiny_clip, towers):
    """A configuration in full, as transformers 4.16 wrote it, and as it does now."""
    old = dict.fromkeys(OPENAI_KEYS.split()) | {
        "add_cross_attention": False,
        "is_decoder": False,
        "is_encoder_decoder": False,
        "pruned_heads": {},
    }

    def change(raw):
        raw["text_config"] |= old
        raw["vision_config"] |= old | {"eos_token_id": None}

    edit(hf / "config.json", change)
    assert config_of(hf) == towers.config
    CLIPModel.from_pretrained(tiny_clip[0]).config.save_pretrained(hf)
    assert load_towers(hf).config == towers.config


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("rope_theta", 1e4, "config.json: 'rope_theta': 10000.0 is not understood"),
        ("vision_config.use_head", 1, "vision_config: 'use_head': 1 is not understood"),
        ("vision_config.num_channels", 4, "'num_channels': 4 .* only 3 is"),
        ("text_config.hidden_size_", 48, "Did you mean 'hidden_size'"),
        ("text_config_dict", {"is_decoder": True}, "text_config_dict: 'is_decoder'"),
        ("text_config", [], r"'text_config' is \[\]; expected dict"),
        ("vision_config.hidden_act", "gelu_new", "hidden_act 'gelu_new'.*'gelu'"),
        (
            "vision_config.num_hidden_layers",
            1e9,
            r"'num_hidden_layers' is 1000000000\.0",
        ),
        ("vision_config.num_hidden_layers", 10**9, "from 1 to 200"),
        ("vision_config.hidden_size", 10**9, "'hidden_size' is 1000000000; expected"),
        ("vision_config.hidden_size", "64", "'hidden_size' is '64'; expected a whole"),
        ("vision_config.hidden_size", True, "'hidden_size' is True; expected a whole"),
        ("vision_config.num_attention_heads", 7, "7 heads do not divide the width 64"),
        ("vision_config.num_attention_heads", 0, "'num_attention_heads' is 0"),
        ("vision_config.image_size", [32, 64], r"'image_size' is \[32, 64\]"),
        ("vision_config.image_size", 10**6, "'image_size' is 1000000"),
        ("vision_config.patch_size", 64, "'patch_size' is 64; .* from 1 to 32"),
        ("vision_config.layer_norm_eps", 0, "'layer_norm_eps' is 0; .* above 0"),
        ("text_config.vocab_size", -1, "'vocab_size' is -1"),
        ("text_config.eos_token_id", [1, 2], r"'eos_token_id' is \[1, 2\]"),
        ("projection_dim", None, "'projection_dim' is None"),
    ],
)
def test_hugging_face_configurations_that_are_refused(hf, key, value, words):
    edit(hf / "config.json", put(key, value))
    start = time.monotonic()
    refused(hf, words)
    assert time.monotonic() - start < 5


def test_a_square_image_size(hf):
    edit(hf / "config.json", put("vision_config.image_size", [32, 32]))
    edit(hf / "config.json", put("vision_config.patch_size", [8, 8]))
    assert load_towers(hf).image_size == 32


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_the_statistics_of_the_preprocessor(hf, file):
    """transformers 5 may write them inside the processor's configuration."""
    pre = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 3}
    pre |= {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    raw = pre if file.startswith("pre") else {"image_processor": pre}
    (hf / file).write_text(json.dumps(raw))
    config = load_towers(hf).config
    assert config.image_mean == (0.5, 0.4, 0.3)
    assert config.image_std == (0.2, 0.2, 0.1)


@pytest.mark.parametrize(
    "key, value, words",
    [
        (
            "image_std",
            [0.2, 0.0, 0.2],
            "'image_std' is .* three finite numbers above 0",
        ),
        ("image_std", [0.2, math.inf, 0.2], "Infinity is not a finite number"),
        ("image_std", [0.2, 0.2], "'image_std' is .* three"),
        ("image_mean", 0.5, "'image_mean' is 0.5; expected three finite numbers"),
        ("image_mean", ["0.5", 0.5, 0.5], "'image_mean' is"),
        ("resample", 2, "resized by 'shortest' with the filter 'bilinear'"),
        ("do_normalize", False, "'do_normalize': False is not supported"),
        ("size", {"height": 32, "width": 24}, "'size' is .* a side of 32"),
        ("size", {"longest_edge": 32}, "'size' is .* a side of 32"),
        ("size", 224, "'size' is 224; the views of the tower have a side of 32"),
        ("do_center_crop", False, "'do_center_crop' is False"),
        ("interpolate", 1, "'interpolate': 1 is not understood"),
    ],
)
def test_other_preprocessing_is_refused(hf, key, value, words):
    edit(hf / "preprocessor_config.json", put(key, value))
    refused(hf, words)


def test_the_geometry_of_the_training(hf, open_clip, towers):
    """DFN's views are squashed; which views a user makes is another matter."""
    assert config_of(hf).geometry == config_of(open_clip).geometry == "clip"
    put_size = put("size", {"height": 32, "width": 32})
    edit(hf / "preprocessor_config.json", put_size)
    edit(
        open_clip / "open_clip_config.json", put("preprocess_cfg.resize_mode", "squash")
    )
    assert config_of(hf).geometry == config_of(open_clip).geometry == "squash"
    edit(hf / "preprocessor_config.json", put("resample", 2))
    assert config_of(hf).geometry == "squash_bilinear"
    assert load_towers(hf).checkpoint_sha256 == towers.checkpoint_sha256


# ---- open_clip's configuration ------------------------------------------------------


@pytest.mark.parametrize(
    "key, value, words",
    [
        (
            "model_cfg.vision_cfg.norm_kwargs",
            {"eps": 1e-6},
            "vision_cfg: 'norm_kwargs'",
        ),
        ("model_cfg.vision_cfg.act_kwargs", {"approximate": "tanh"}, "'act_kwargs'"),
        (
            "model_cfg.vision_cfg.pool_type",
            "avg",
            "'pool_type': 'avg' is not supported",
        ),
        ("model_cfg.vision_cfg.final_ln_after_pool", True, "'final_ln_after_pool'"),
        ("model_cfg.vision_cfg.sparkle", 1, "'sparkle': 1 is not understood"),
        ("model_cfg.text_cfg.no_causal_mask", True, "text_cfg: 'no_causal_mask': True"),
        ("model_cfg.text_cfg.pool_type", "last", "pool_type 'last'; allowed: argmax"),
        ("model_cfg.quick_gelu", "yes", "quick_gelu 'yes'"),
        ("model_cfg.vision_cfg.layers", 10**9, "'layers' is 1000000000"),
        (
            "model_cfg.vision_cfg.head_width",
            100,
            "'head_width' is 100; .* from 1 to 64",
        ),
        ("model_cfg.vision_cfg.mlp_ratio", -4, "'mlp_ratio' is -4"),
        ("model_cfg.embed_dim", None, "'embed_dim' is None"),
        ("model_cfg", [], r"'model_cfg' is \[\]; expected dict"),
        ("preprocess_cfg.resize_mode", "longest", "resized by 'longest' with .*squash"),
        ("preprocess_cfg.interpolation", "bilinear", "with the filter 'bilinear'"),
        ("preprocess_cfg.antialias", False, "'antialias': False is not understood"),
        ("preprocess_cfg.std", [0, 1, 1], r"preprocess_cfg: 'std' is \[0, 1, 1\]"),
        ("preprocess_cfg.size", 224, "'size' is 224, but image_size is 32"),
    ],
)
def test_open_clip_configurations_that_are_refused(open_clip, key, value, words):
    edit(open_clip / "open_clip_config.json", put(key, value))
    refused(open_clip, words)


def test_neutral_values_change_nothing(open_clip):
    before = config_of(open_clip)

    def change(raw):
        raw["model_cfg"] |= {"custom_text": False, "init_logit_scale": 2.66}
        raw["model_cfg"]["init_logit_bias"] = -10  # shifts the logits alone
        raw["model_cfg"]["vision_cfg"] |= {
            "patch_dropout": 0.5,
            "mlp_ratio": 4.0,
            "norm_kwargs": {},
            "pool_type": "tok",
        }
        raw["model_cfg"]["text_cfg"] |= {"eos_id": 49407, "pool_type": "argmax"}
        raw["preprocess_cfg"] |= {
            "size": [32, 32],
            "mode": "RGB",
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "fill_color": 0,
        }

    edit(open_clip / "open_clip_config.json", change)
    assert config_of(open_clip) == before


def test_heads_of_another_width(open_clip):
    """LAION's H/14 has heads of 80, not 64."""
    edit(
        open_clip / "open_clip_config.json", put("model_cfg.vision_cfg.head_width", 32)
    )
    assert config_of(open_clip).vision.heads == 2


@pytest.mark.parametrize(
    "name, activation",
    [
        ("vit_base_patch32_clip_224.openai", "quick_gelu"),
        ("vit_base_patch32_clip_224.metaclip_2pt5b", "quick_gelu"),
        ("DFN5B-CLIP-ViT-H-14", "quick_gelu"),
        ("vit_base_patch32_clip_quickgelu_224.laion400m_e32", "quick_gelu"),
        ("CLIP-ViT-B-32-laion2B-s34B-b79K", "gelu"),
        ("my_checkpoint", "gelu"),
    ],
)
def test_a_guessed_activation_is_a_warning(open_clip, name, activation):
    folder = open_clip.rename(open_clip.with_name(name))
    edit(
        folder / "open_clip_config.json",
        lambda raw: raw["model_cfg"].pop("quick_gelu"),
    )
    guess = {"quick_gelu": "true", "gelu": "false"}[activation]
    with pytest.warns(UserWarning, match=f"quick_gelu; guessed {guess} from the name"):
        config = config_of(folder)
    assert config.vision.activation == config.text.activation == activation


@pytest.mark.parametrize(
    "key, value, kind",
    [
        ("vision_cfg.timm_model_name", "eva02", r"image tower of timm \(eva02\)"),
        ("text_cfg.hf_model_name", "roberta", r"text tower of .* \(roberta\)"),
        ("multimodal_cfg", {"width": 8}, "CoCa"),
        ("custom_text", True, "custom_text"),
    ],
)
def test_open_clip_files_of_other_families_are_named(open_clip, key, value, kind):
    edit(open_clip / "open_clip_config.json", put(f"model_cfg.{key}", value))
    assert config_of(open_clip) is None
    refused(open_clip, f"another model: .*{kind}.*no family.*clip_vit")


# ---- Layouts of files ---------------------------------------------------------------


def test_hugging_face_weights_beside_an_open_clip_config(hf, open_clip, towers):
    """The repositories of LAION: both configurations, one set of safetensors."""
    shutil.copy(open_clip / "open_clip_config.json", hf)
    found = load_towers(hf)
    assert found.checkpoint_sha256 == towers.checkpoint_sha256
    np.testing.assert_array_equal(
        found.encode_text(["a dog"]), towers.encode_text(["a dog"])
    )


def test_the_other_name_of_open_clip_weights(open_clip, towers):
    (open_clip / "open_clip_model.safetensors").rename(
        open_clip / "open_clip_pytorch_model.safetensors"
    )
    assert load_towers(open_clip).config == towers.config


def test_a_logit_scale_of_shape_1(hf, towers):
    tensors = load_file(hf / "model.safetensors")
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    save_file(tensors, hf / "model.safetensors")
    found = load_towers(hf).params["logit_scale"]
    assert found.shape == () and found == towers.params["logit_scale"]


@pytest.mark.parametrize(
    "weight_map, words",
    [
        ({"a": "../../secret.safetensors"}, "names '../../secret.safetensors'"),
        ({"a": "pickle.bin"}, "names 'pickle.bin'; expected a .safetensors file"),
        ({}, "has no model.safetensors"),
        ([], r"'weight_map' is \[\]"),
    ],
)
def test_an_index_of_shards_is_checked(hf, weight_map, words):
    index = hf / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    load_towers(hf)  # left over beside a whole file, as for transformers
    (hf / "model.safetensors").unlink()
    refused(hf, words)


# ---- Two sets of weights in one folder ----------------------------------------------


def save_shards(folder, tensors, count=2):
    """As `save_pretrained(max_shard_size=...)` of transformers does."""
    names = sorted(tensors)
    weight_map = {}
    for i in range(count):
        own = names[i::count]
        name = f"model-{i + 1:05}-of-{count:05}.safetensors"
        save_file({n: tensors[n] for n in own}, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(own, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def moved(tensors):
    """Other weights, as after some training."""
    return {
        k: v + np.full_like(v, 0.25) if v.ndim == 2 else v for k, v in tensors.items()
    }


def image_features(folder):
    """Of transformers, for a view of ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model.get_image_features(
            pixel_values=torch.ones(1, 3, 32, 32)
        ).pooler_output.numpy()


def tokens_of(towers):
    return towers.params["text"]["token_embedding"]


def test_saving_a_sharded_folder_again_works(hf, towers):
    """An index that is left over is not read, nor by transformers."""
    tensors = load_file(hf / "model.safetensors")
    (hf / "model.safetensors").unlink()
    save_shards(hf, moved(tensors))
    index = (hf / "model.safetensors.index.json").read_text()
    old = load_towers(hf)
    assert np.abs(tokens_of(old) - tokens_of(towers)).max() > 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CLIPModel.from_pretrained(hf)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
    model.save_pretrained(hf)
    assert not list(hf.glob("model-*.safetensors"))
    (hf / "model.safetensors.index.json").write_text(index)
    np.testing.assert_array_equal(tokens_of(load_towers(hf)), tokens_of(towers))
    # And what this package writes leaves none behind.
    testing.save_random_clip(hf)
    assert not (hf / "model.safetensors.index.json").exists()
    np.testing.assert_array_equal(tokens_of(load_towers(hf)), tokens_of(towers))


def test_a_whole_file_and_shards_that_differ(hf, towers):
    alone = image_features(hf)
    save_shards(hf, moved(load_file(hf / "model.safetensors")))
    words = (
        r"model.safetensors and model.safetensors.index.json, and they are not the "
        r"same: \S+ differs by up to 0.25"
    )
    with pytest.raises(ValueError, match=words) as e:
        load_towers(hf)
    whole = str(e.value).rpartition(": ")[2]
    assert whole == str(hf / "model.safetensors")
    np.testing.assert_array_equal(image_features(hf), alone)  # so does transformers
    found, shards = load_towers(whole), load_towers(f"{whole}.index.json")
    assert found.name == whole
    assert found.checkpoint_sha256 == towers.checkpoint_sha256
    assert shards.checkpoint_sha256 != found.checkpoint_sha256
    np.testing.assert_array_equal(tokens_of(found), tokens_of(towers))
    assert np.abs(tokens_of(shards) - tokens_of(towers)).max() > 0.2


def test_equal_weights_in_two_forms_are_a_warning(hf, towers):
    tensors = load_file(hf / "model.safetensors")
    save_shards(hf, tensors)
    words = "two sets of weights.*with the same tensors; model.safetensors is read"
    with pytest.warns(UserWarning, match=words):
        found = load_towers(hf)
    assert found.checkpoint_sha256 == towers.checkpoint_sha256
    # float16 of the same numbers: rounded alike.
    save_shards(hf, {k: v.astype(np.float16) for k, v in tensors.items()})
    with pytest.warns(UserWarning, match=words):
        load_towers(hf)
    assert ("other weights", "model.safetensors.index.json") in describe(hf).facts


def test_open_clips_weights_beside_hugging_faces(hf, open_clip):
    """The repositories of LAION, downloaded as they are; then one is trained on."""
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        shutil.copy(open_clip / name, hf)
    with pytest.warns(UserWarning, match="open_clip_model.safetensors is read"):
        load_towers(hf)
    new = moved(load_file(hf / "model.safetensors"))
    save_file(new, hf / "model.safetensors")
    refused(hf, "open_clip_model.safetensors and model.safetensors, and they are not")
    found = load_towers(hf / "model.safetensors")
    assert found.config.vision.activation == "quick_gelu"
    np.testing.assert_array_equal(
        tokens_of(found),
        new["text_model.embeddings.token_embedding.weight"],
    )
    load_towers(hf / "open_clip_model.safetensors")
    # Equal tensors, another activation.
    shutil.copytree(hf, hf.parent / "other")
    other = hf.parent / "other"
    testing.save_random_clip(other)
    edit(other / "open_clip_config.json", put("model_cfg.quick_gelu", False))
    refused(other, "not the same: (vision|text) is .*gelu.*quick_gelu")


def test_two_names_of_open_clips_weights(open_clip):
    one = open_clip / "open_clip_model.safetensors"
    two = open_clip / "open_clip_pytorch_model.safetensors"
    shutil.copy(one, two)
    with pytest.warns(UserWarning, match="open_clip_model.safetensors is read"):
        load_towers(open_clip)
    save_file(moved(load_file(one)), two)
    refused(open_clip, "open_clip_model.safetensors and open_clip_pytorch_model.safe")
    assert np.abs(tokens_of(load_towers(two)) - tokens_of(load_towers(one))).max() > 0.2


def test_weights_of_another_kind_in_the_folder_are_not_compared(open_clip):
    """The repositories of timm: its own image tower, with its own configuration."""
    (open_clip / "config.json").write_text('{"architecture": "vit_base_patch32"}')
    save_file({"a": np.ones(1, np.float32)}, open_clip / "model.safetensors")
    (open_clip / "open_clip_pytorch_model.bin").write_bytes(b"PK")
    load_towers(open_clip)


def test_second_weights_that_cannot_be_read_are_said(hf):
    save_shards(hf, load_file(hf / "model.safetensors"))
    (hf / "model-00002-of-00002.safetensors").write_bytes(b"")
    refused(hf, "(?s)the second cannot be read: .*00002.safetensors is not.*is empty")


# ---- Names with a prefix, and other models ------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "clip.", "model.clip."])
def test_a_prefix_is_said_at_once(hf, prefix):
    tensors = load_file(hf / "model.safetensors")
    save_file({prefix + k: v for k, v in tensors.items()}, hf / "model.safetensors")
    with pytest.raises(ValueError) as e:
        load_towers(hf)
    said = str(e.value)
    assert f"extra prefix '{prefix}' on {len(tensors)} of {len(tensors)} names" in said
    assert "missing" not in said and len(said.splitlines()) == 1


def test_a_prefix_beside_other_tensors_is_said(hf):
    """A training program's own file: the model and more."""
    tensors = load_file(hf / "model.safetensors")
    more = {f"model.{k}": v for k, v in tensors.items()}
    more |= {"optimizer.step": np.ones(1, np.float32), "head": np.ones(2, np.float32)}
    save_file(more, hf / "model.safetensors")
    refused(hf, "extra prefix 'model.'")


def test_a_part_of_a_model_is_said(hf):
    tensors = load_file(hf / "model.safetensors")
    start = "vision_model."
    own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    save_file(own, hf / "model.safetensors")
    refused(hf, "the prefix 'vision_model.' is missing on 55 of 55 names: .* a part")


def test_names_of_another_model_are_said(hf, open_clip):
    shutil.copy(open_clip / "open_clip_model.safetensors", hf / "model.safetensors")
    refused(hf, r"1 of \d+ are there; found \d+, such as .*; expected .*, \.\.\.")


def test_a_pipe_is_no_checkpoint_file(hf):
    (hf / "model.safetensors").unlink()
    os.mkfifo(hf / "model.safetensors")
    refused(hf, "has no model.safetensors")


# ---- Damage -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize(
    "text",
    ["[]", "{", "null", '"a"', "", "[" * 100_000, '{"a": NaN}', "\x00\x01"],
    ids=range(8),
)
def test_damaged_json_names_the_file(hf, file, text):
    (hf / file).write_text(text)
    refused(hf, file)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_empty_json_names_the_file(hf, file):
    (hf / file).write_text("{}")
    refused(hf, file)


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, b"\x08" + bytes(15)])
def test_damaged_weights_name_the_file(hf, content):
    (hf / "model.safetensors").write_bytes(content)
    refused(hf, "model.safetensors is not a whole safetensors file")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 12\n"
FAILED_DOWNLOADS = {
    "a Git LFS pointer.*hf download": POINTER,
    "a web page": b"<!DOCTYPE html>\n<html><title>404</title></html>",
    r"is empty \(0 bytes\)": b"",
}


@pytest.mark.parametrize("said", FAILED_DOWNLOADS)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "shard"]
)
def test_a_failed_download_is_named_with_its_remedy(hf, name, said):
    if name == "shard":
        save_shards(hf, load_file(hf / "model.safetensors"))
        (hf / "model.safetensors").unlink()
        name = "model-00001-of-00002.safetensors"
    (hf / name).write_bytes(FAILED_DOWNLOADS[said])
    refused(hf, f"{name}.*{said}")


def test_weights_that_are_cut_off_or_pickled_are_named(hf):
    path = hf / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(hf, f"is cut off: {len(whole) - 1:,} of {len(whole):,} bytes")
    path.write_bytes(whole[:5000])
    refused(hf, "is cut off: 5,000 of [0-9,]+ bytes")
    torch.save({"a": torch.ones(2)}, path)
    refused(hf, "is a pickled file of PyTorch")
    path.write_bytes(b'{"error": "Repository not found"}')
    refused(hf, "is text, beginning .*Repository not found")
    # The first byte of a whole file may be that of anything: it is a length.
    for length in (0x3C, 0x7B, 0x280):
        header = b"{}".ljust(length)
        path.write_bytes(length.to_bytes(8, "little") + header)
        assert signatures.download_fault(path) == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_name_the_tensor(hf, value):
    tensors = load_file(hf / "model.safetensors")
    tensors[KEY][3, 5] = value
    save_file(tensors, hf / "model.safetensors")
    refused(hf, rf"1 differences\):\n  NaN or infinite values in {KEY} \[256, 64\]")


def test_quantised_weights_are_refused(hf):
    tensors = load_file(hf / "model.safetensors")
    tensors[KEY] = np.ones_like(tensors[KEY], np.int8)
    save_file(tensors, hf / "model.safetensors")
    refused(hf, f"{KEY} is stored as I8, not floating point")


def test_a_tensor_in_two_files_is_refused(hf):
    tensors = load_file(hf / "model.safetensors")
    save_file({KEY: tensors[KEY]}, hf / "again.safetensors")
    (hf / "model.safetensors").rename(hf / "once.safetensors")
    index = {"weight_map": {"a": "once.safetensors", "b": "again.safetensors"}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(hf, rf"1 differences\):\n  duplicated {KEY}")


# ---- Tokenizers ---------------------------------------------------------------------


def test_another_tokenizer_class_is_refused(hf):
    edit(hf / "tokenizer_config.json", put("tokenizer_class", "XLMRobertaTokenizer"))
    refused(hf, "tokenizer_config.json names 'XLMRobertaTokenizer'")


@pytest.mark.parametrize(
    "model, words",
    [
        ({"type": "Unigram", "vocab": [["a", 0.0]]}, "is a Unigram"),
        ({"type": "WordPiece", "vocab": {}}, "is a WordPiece"),
        ({"type": "BPE", "vocab": {}, "merges": []}, "is a BPE with the word end None"),
    ],
)
def test_another_kind_of_tokenizer_is_refused(hf, model, words):
    """MetaCLIP 2 in open_clip's format: nothing but the tokenizer tells."""
    (hf / "tokenizer_config.json").unlink()
    edit(hf / "tokenizer.json", put("model", model))
    refused(hf, f"tokenizer.json {words}")


def test_the_eos_of_the_tokenizer_is_that_of_the_configuration(hf):
    edit(hf / "config.json", put("text_config.eos_token_id", 77))
    refused(hf, "its EOS is 49407, but the configuration pools at 77")


def test_every_token_has_a_row(open_clip):
    edit(
        open_clip / "open_clip_config.json", put("model_cfg.text_cfg.vocab_size", 49408)
    )

    def change(raw):
        raw["added_tokens"].append(
            dict(raw["added_tokens"][0], id=49500, content="<x>")
        )

    edit(open_clip / "tokenizer.json", change)
    edit(
        open_clip / "tokenizer_config.json",
        put("extra_special_tokens", {"x": "<x>"}),
    )
    refused(open_clip, "the tokenizer has token 49.*but the text tower has 49408 rows")


def test_half_a_tokenizer_names_the_other_half(hf):
    vocab = json.loads((hf / "tokenizer.json").read_text())["model"]["vocab"]
    (hf / "tokenizer.json").unlink()
    (hf / "tokenizer_config.json").unlink()
    refused(hf, "has no tokenizer: neither tokenizer.json nor vocab.json")
    (hf / "vocab.json").write_text(json.dumps(vocab))
    refused(hf, "has no merges.txt")
    (hf / "merges.txt").write_text("#version: 0.2\n")
    assert load_towers(hf).tokenize(["a"])[0] == [[49406, vocab["a</w>"], 49407]]


# ---- The checksum -------------------------------------------------------------------


def test_the_checksum_of_the_miniatures_clip(tmp_path):
    """Heads store it: it may never change for a checkpoint that could be loaded.

    The number was computed with the code that gave the CLIP of version 0.1 the checksum
    which version 0.1 had stored.
    """
    archive = Path(item_jax.__file__).parent / "assets" / "miniature.zip"
    with zipfile.ZipFile(archive) as z:
        z.extractall(tmp_path, [n for n in z.namelist() if n.startswith("clip/")])
    before, now = TOY_TOWERS
    assert load_towers(tmp_path / "clip").checkpoint_sha256 == now
    head = Path(__file__).parent / "data" / "version_0.1" / "head" / "config.json"
    assert json.loads(head.read_text())["embedding"]["checkpoint_sha256"] == before


def test_the_digested_text_is_written_out(towers):
    """It is what `repr` gave in version 0.1; a new field must not get into it."""
    text = clip_vit_config.digest_text(towers.config)
    assert text == repr(towers.config).replace(
        ", geometry='clip', cleaning='lower')", ")"
    )
    assert text.startswith("Config(embed_dim=32, image_size=32, patch_size=8, ")


# ---- Random checkpoints -------------------------------------------------------------


def test_transformers_loads_the_random_checkpoint(tiny_clip):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, info = CLIPModel.from_pretrained(tiny_clip[0], output_loading_info=True)
    assert not any(info.values()), info


def test_random_checkpoints_follow_their_seed(tmp_path, towers):
    same, other = (
        load_towers(testing.save_random_clip(tmp_path / str(seed), seed=seed))
        for seed in (0, 1)
    )
    assert same.checkpoint_sha256 == towers.checkpoint_sha256
    assert other.checkpoint_sha256 != towers.checkpoint_sha256


def test_random_checkpoints_and_their_towers_need_no_torch(tmp_path):
    code = (
        "import runpy, sys; from item_jax import load_towers;"
        f"sys.argv = ['testing', 'tiny', {str(tmp_path)!r}, '--seed=3'];"
        "runpy.run_module('item_jax.testing', run_name='__main__');"
        f"load_towers({str(tmp_path)!r}).encode_text(['a dog']);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote a random tiny to {tmp_path}\n"
    expected = testing.save_random_clip(tmp_path / "again", seed=3)
    assert (expected / "model.safetensors").read_bytes() == (
        tmp_path / "model.safetensors"
    ).read_bytes()
