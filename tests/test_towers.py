import json
import shutil

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import random_clip
from item_jax.towers import clip_vit, clip_vit_files
from item_jax.towers.load import (
    SHORT_NAMES,
    TEXT_BUCKETS,
    WITH_SAFETENSORS,
    load_towers,
)

TEXTS = [
    "a dog",
    "a small cat on a mat",
    "",
    "a dog",
    "the sea, " * 3,
    "z" * 74,  # with its word end 76 tokens and more: BOS, letters, EOS
    "x" * 75,  # 77 tokens exactly
    "y" * 300,  # cut
]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def random_views(count, size):
    shape = (count, size, size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def torch_image(model, views, config):
    x = torch.from_numpy(views).float() / 255
    x = (x - torch.tensor(config.image_mean)) / torch.tensor(config.image_std)
    with torch.no_grad():
        out = model.get_image_features(pixel_values=x.permute(0, 3, 1, 2))
    return out.pooler_output.numpy()


def torch_text(model, towers, texts):
    ids = towers.tokenizer(
        texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        return model.get_text_features(**ids).pooler_output.numpy()


@pytest.mark.parametrize("size", ["tiny", "ViT-B-32", "ViT-L-14"])
def test_parity_with_torch(size, tmp_path):
    """The real sizes, both towers whole, from files on disk."""
    model = random_clip.save_random_clip(tmp_path, size)
    towers = load_towers(tmp_path)
    views = random_views(2, towers.image_size)
    image = torch_image(model, views, towers.config)
    text = torch_text(model, towers, TEXTS)
    del model
    one = {"devices": jax.devices()[:1]}  # eight copies of L/14 would need 14 GB
    ours = towers.encode_image(views, **one), towers.encode_text(TEXTS, **one)
    assert np.abs(unit(ours[0]) - unit(image)).max() <= 1e-5
    assert np.abs(unit(ours[1]) - unit(text)).max() <= 1e-5
    del towers
    half = load_towers(tmp_path, "bfloat16")
    assert half.params["vision"]["block_0"]["qkv"]["kernel"].dtype == jnp.bfloat16
    ours = half.encode_image(views, **one), half.encode_text(TEXTS, **one)
    assert (unit(ours[0]) * unit(image)).sum(-1).min() >= 0.999
    assert (unit(ours[1]) * unit(text)).sum(-1).min() >= 0.999


def test_exact_gelu_is_read_from_the_config(tmp_path):
    model = random_clip.save_random_clip(tmp_path, "tiny", activation="gelu")
    towers = load_towers(tmp_path)
    assert towers.config.vision.activation == "gelu"
    views = random_views(3, 32)
    expected = unit(torch_image(model, views, towers.config))
    assert np.abs(unit(towers.encode_image(views)) - expected).max() <= 1e-5
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["vision_config"]["hidden_act"] = "quick_gelu"
    (tmp_path / "config.json").write_text(json.dumps(raw))
    wrong = load_towers(tmp_path).encode_image(views)
    assert np.abs(unit(wrong) - expected).max() > 1e-4


def test_open_clip_files_give_the_same(tiny_clip, towers, tmp_path):
    random_clip.open_clip_twin(tiny_clip[0], tmp_path)
    twin = load_towers(tmp_path)
    assert twin.config == towers.config
    for a, b in zip(jax.tree.leaves(twin.params), jax.tree.leaves(towers.params)):
        np.testing.assert_array_equal(a, b)


def test_open_clip_quick_gelu_from_the_name():
    raw = {
        "model_cfg": {
            "embed_dim": 512,
            "vision_cfg": dict(image_size=224, layers=12, width=768, patch_size=32),
            "text_cfg": dict(
                context_length=77, vocab_size=49408, width=512, heads=8, layers=12
            ),
        }
    }
    openai = clip_vit_files.config_from_open_clip(raw, SHORT_NAMES["ViT-B-32"])
    assert openai.vision.activation == openai.text.activation == "quick_gelu"
    laion = clip_vit_files.config_from_open_clip(raw, "laion/CLIP-ViT-B-32-laion2B")
    assert laion.vision.activation == "gelu"
    # LAION's H/14 has heads of 80, not 64.
    raw["model_cfg"]["vision_cfg"] |= dict(width=1280, head_width=80, patch_size=14)
    assert clip_vit_files.config_from_open_clip(raw, "x").vision.heads == 16
    raw["model_cfg"]["vision_cfg"]["layers"] = [3, 4, 6, 3]
    with pytest.raises(ValueError, match="no plain CLIP ViT"):
        clip_vit_files.config_from_open_clip(raw, "timm/resnet50_clip.openai")


def test_sharded_files(tiny_clip, towers, tmp_path):
    shutil.copytree(tiny_clip[0], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({k: tensors[k] for k in keys}, tmp_path / file)
    index = {"weight_map": {k: file for file, keys in parts.items() for k in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = load_towers(tmp_path)
    for a, b in zip(jax.tree.leaves(sharded.params), jax.tree.leaves(towers.params)):
        np.testing.assert_array_equal(a, b)
    assert sharded.checkpoint_sha256 != towers.checkpoint_sha256


@pytest.mark.parametrize("scheme", clip_vit_files.TABLES)
@pytest.mark.parametrize("size", random_clip.SIZES)
def test_the_tables_name_every_parameter(size, scheme):
    """At the real sizes, without memory: shapes alone."""
    s = random_clip.SIZES[size]

    def transformer(width, layers, heads):
        return clip_vit.TransformerConfig(
            width, layers, heads, 4 * width, "quick_gelu", 1e-5
        )

    config = clip_vit.Config(
        embed_dim=s["embed_dim"],
        image_size=s.get("size", 224),
        patch_size=s["patch"],
        image_mean=clip_vit_files.CLIP_MEAN,
        image_std=clip_vit_files.CLIP_STD,
        context_length=77,
        vocab_size=49408,
        eos_token_id=49407,
        vision=transformer(*s["vision"]),
        text=transformer(*s["text"], 8),
    )
    shapes = clip_vit.param_shapes(config, jnp.float32)
    paths = flax.traverse_util.flatten_dict(shapes, sep="/")
    named = {
        path.format(i=i)
        for path in clip_vit_files.TABLES[scheme]
        for i in range(s["vision" if path.startswith("vision") else "text"][1])
    }
    assert set(paths) == named
    # Published sizes (openai/CLIP paper, open_clip docs/model_profile.csv, millions).
    millions = sum(np.prod(p.shape) for p in paths.values()) / 1e6
    published = {"ViT-L-14": 427.6, "ViT-B-16": 149.6, "ViT-B-32": 151.3}
    if size in published:
        assert millions == pytest.approx(published[size], abs=0.05)


def broken(tiny_clip, folder, change):
    shutil.copytree(tiny_clip[0], folder, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


KEY = "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop(KEY), rf"1 differences\):\n  missing {KEY}"),
        (lambda t: t.update(odd=np.zeros(3)), r"1 differences\):\n  extra odd"),
        (
            lambda t: t.update({KEY: np.zeros((64, 64), np.float32)}),
            rf"misshapen {KEY} \[64, 64\] for our vision/block_1/fc_1/.* \[64, 256\]",
        ),
        (
            lambda t: t.update({KEY: np.zeros((1, 1), np.float32)}),
            "misshapen",  # numpy would broadcast it
        ),
        (
            lambda t: t.update(
                {"vision_model.embeddings.patch_embedding.weight": np.zeros(5)}
            ),
            "misshapen",
        ),
    ],
)
def test_reading_is_strict(change, words, tiny_clip, tmp_path):
    with pytest.raises(ValueError, match=words):
        load_towers(broken(tiny_clip, tmp_path, change))


def test_old_buffers_are_ignored(tiny_clip, tmp_path):
    name = "text_model.embeddings.position_ids"
    load_towers(broken(tiny_clip, tmp_path, lambda t: t.update({name: np.arange(77)})))


def test_checkpoints_that_cannot_be_read(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'ViT-L-14'"):
        load_towers("ViT-L14")
    with pytest.raises(ValueError, match="'float16'.*Did you mean 'bfloat16'"):
        load_towers(tiny_clip[0], "float16")
    with pytest.raises(ValueError, match="neither config.json nor"):
        load_towers(tmp_path)
    shutil.copytree(tiny_clip[0], tmp_path, dirs_exist_ok=True)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_towers(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin.*not loaded.*timm/vit_"):
        load_towers(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ValueError, match="'siglip'; only 'clip'"):
        load_towers(tmp_path)


def test_a_repository_without_safetensors_leads_to_one_with(monkeypatch, tiny_clip):
    import huggingface_hub

    def fake_snapshot(source, *, revision, allow_patterns):
        # A hub that has everything but the weights as safetensors.
        return str(fake)

    fake = tiny_clip[0].parent / "pickled"
    shutil.copytree(tiny_clip[0], fake, dirs_exist_ok=True)
    (fake / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake_snapshot)
    source = "openai/clip-vit-base-patch32"
    with pytest.raises(ValueError, match=WITH_SAFETENSORS[source]):
        load_towers(source)


def test_offline_is_said():
    with pytest.raises(ValueError, match="cannot fetch 'nobody/nothing'"):
        load_towers("nobody/nothing")


def test_openai_configs_with_the_wrong_eos():
    raw = {"text_config": {"eos_token_id": 2}, "vision_config": {}}
    assert clip_vit_files.config_from_hf(raw, {}).eos_token_id == 49407


def test_tokens_keep_their_eos(towers):
    tokens, cut = towers.tokenize(TEXTS)
    assert [len(t) for t in tokens] == [6, 17, 2, 6, 23, 76, 77, 77]
    assert all(t[0] == random_clip.BOS and t[-1] == random_clip.EOS for t in tokens)
    assert cut.tolist() == [False] * 7 + [True]


@pytest.mark.parametrize("length", [*TEXT_BUCKETS, 77])
def test_cutting_behind_the_eos_is_exact(towers, length):
    """A text gives the same embedding at every padded length, up to rounding."""
    tokens, _ = towers.tokenize(["a dog"])
    eos = towers.config.eos_token_id

    def at(length):
        padded = np.array([tokens[0] + [eos] * (length - len(tokens[0]))], np.int32)
        return np.asarray(
            clip_vit.encode_text(
                towers.params["text"], padded, config=towers.config, dtype=jnp.float32
            )
        )

    np.testing.assert_allclose(unit(at(length)), unit(at(77)), atol=1e-6)


def test_texts_of_any_number_and_order(towers):
    texts = [f"{'word ' * (i % 14)}{i % 5}" for i in range(101)]
    found = towers.encode_text(texts, batch_size=8)
    assert found.shape == (101, 32) and found.dtype == np.float32
    for i in (0, 13, 57, 100):
        alone = towers.encode_text([texts[i]])[0]
        np.testing.assert_allclose(found[i], alone, atol=1e-5)
    assert towers.encode_text([]).shape == (0, 32)


@pytest.mark.parametrize("count", [0, 1, 5, 23])
def test_views_of_any_number(towers, count):
    views = random_views(count, 32)
    found = towers.encode_image(views, batch_size=8)
    assert found.shape == (count, 32) and found.dtype == np.float32
    one = [jax.devices()[0]]
    np.testing.assert_allclose(
        found, towers.encode_image(views, devices=one), atol=1e-5
    )


def test_wrong_views_are_refused(towers):
    with pytest.raises(ValueError, match=r"uint8 \[N, 32, 32, 3\].*float32"):
        towers.encode_image(np.zeros((1, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r"found uint8 \[1, 224, 224, 3\]"):
        towers.encode_image(np.zeros((1, 224, 224, 3), np.uint8))
