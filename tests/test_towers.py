import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import CLIPModel

from item_jax import testing
from item_jax.towers import clip_vit, key_tables
from item_jax.towers import families as families_lib
from item_jax.towers.checkpoint import WITH_SAFETENSORS
from item_jax.towers.clip_vit import TEXT_BUCKETS
from item_jax.towers.families import families
from item_jax.towers.outputs import embedded
from item_jax.towers.text_cleaning import CLEANINGS
from item_jax.towers.towers import load_towers
from item_jax.towers.transformer import TransformerConfig

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


@pytest.mark.parametrize(
    "size",
    [
        "tiny",
        pytest.param("ViT-B-32", marks=pytest.mark.slow),
        pytest.param("ViT-L-14", marks=pytest.mark.slow),
    ],
)
def test_parity_with_torch(size, tmp_path):
    """The real sizes, both towers whole, from files on disk."""
    testing.save_random_clip(tmp_path, size)
    model = CLIPModel.from_pretrained(tmp_path).eval()
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
    testing.save_random_clip(tmp_path, "tiny", activation="gelu")
    model = CLIPModel.from_pretrained(tmp_path).eval()
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
    testing.open_clip_twin(tiny_clip[0], tmp_path)
    twin = load_towers(tmp_path)
    assert twin.config == towers.config
    for a, b in zip(jax.tree.leaves(twin.params), jax.tree.leaves(towers.params)):
        np.testing.assert_array_equal(a, b)


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


@pytest.mark.parametrize("layout", clip_vit.LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("size", testing.SIZES)
def test_the_tables_name_every_parameter(size, layout):
    """At the real sizes, without memory: shapes alone."""
    s = testing.SIZES[size]

    def transformer(width, layers, heads):
        return TransformerConfig(width, layers, heads, 4 * width, "quick_gelu", 1e-5)

    config = clip_vit.Config(
        embed_dim=s["embed_dim"],
        image_size=s.get("size", 224),
        patch_size=s["patch"],
        image_mean=key_tables.CLIP_MEAN,
        image_std=key_tables.CLIP_STD,
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
        for path in layout.keys
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
    with pytest.raises(
        ValueError,
        match="neither config.json nor open_clip_config.json; found no files",
    ):
        load_towers(tmp_path)
    shutil.copytree(tiny_clip[0], tmp_path, dirs_exist_ok=True)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_towers(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match="pytorch_model.bin.*not loaded.*save_pretrained"
    ):
        load_towers(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(
        ValueError, match="model_type 'blip'; no family.*clip_vit.*is read: CLIP ViTs"
    ):
        load_towers(tmp_path)


class Hub:
    """A Hugging Face Hub of one repository, with what was asked of it."""

    def __init__(self, monkeypatch, repository, snapshot):
        import huggingface_hub

        self.repository, self.snapshot, self.fetched = repository, snapshot, []
        self.online = True
        (http_error, _) = huggingface_hub.errors.HfHubHTTPError.__bases__
        self.no_network = type("ConnectError", (http_error,), {})("no network")
        snapshot.mkdir()
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)
        monkeypatch.setattr(huggingface_hub, "list_repo_files", self.names)

    def names(self, source, *, revision):
        if not self.online:
            raise self.no_network
        return [p.name for p in self.repository.iterdir()]

    def download(self, source, *, revision, allow_patterns):
        for path in self.repository.iterdir():
            wanted = any(fnmatch(path.name, p) for p in allow_patterns)
            if self.online and wanted and not (self.snapshot / path.name).exists():
                shutil.copy(path, self.snapshot)
                self.fetched.append(path.name)
        return str(self.snapshot)


def test_only_the_weights_that_are_read_are_fetched(monkeypatch, tiny_clip, tmp_path):
    """LAION's repositories hold the weights several times."""
    repository = tmp_path / "repository"
    shutil.copytree(tiny_clip[0], repository)
    twin = testing.open_clip_twin(tiny_clip[0], tmp_path / "twin")
    shutil.copy(twin / "open_clip_config.json", repository)
    for name in ("open_clip_pytorch_model.bin", "pytorch_model.bin"):
        (repository / name).write_bytes(b"a pickle")
    hub = Hub(monkeypatch, repository, tmp_path / "snapshot")
    towers = load_towers("laion/tiny")
    assert towers.name == "laion/tiny"
    assert [n for n in hub.fetched if "model" in n] == ["model.safetensors"]
    hub.online = False  # what was fetched is found again
    assert load_towers("laion/tiny").checkpoint_sha256 == towers.checkpoint_sha256


def test_the_configuration_of_timm_beside_open_clip_pickles(tiny_clip, tmp_path):
    """model.safetensors is timm's image tower alone there."""
    folder = testing.open_clip_twin(tiny_clip[0], tmp_path / "twin")
    (folder / "open_clip_model.safetensors").rename(folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "vit_base_patch32"}')
    with pytest.raises(ValueError, match="has no open_clip_model.safetensors"):
        load_towers(folder)


def test_a_repository_without_safetensors_leads_to_one_with(
    monkeypatch, tiny_clip, tmp_path
):
    repository = tmp_path / "repository"
    shutil.copytree(tiny_clip[0], repository)
    (repository / "model.safetensors").rename(repository / "pytorch_model.bin")
    Hub(monkeypatch, repository, tmp_path / "snapshot")
    source = "openai/clip-vit-base-patch32"
    with pytest.raises(ValueError, match=WITH_SAFETENSORS[source]):
        load_towers(source)


def test_offline_is_said():
    with pytest.raises(ValueError, match="cannot fetch 'nobody/nothing'"):
        load_towers("nobody/nothing")


def test_tokens_keep_their_eos(towers):
    tokens, cut = towers.tokenize(TEXTS)
    assert [len(t) for t in tokens] == [6, 17, 2, 6, 23, 76, 77, 77]
    assert all(t[0] == testing.BOS and t[-1] == testing.EOS for t in tokens)
    assert cut.tolist() == [False] * 7 + [True]


@pytest.mark.parametrize("length", [*TEXT_BUCKETS, 77])
def test_cutting_behind_the_eos_is_exact(towers, length):
    """A text gives the same embedding at every padded length, up to rounding."""
    tokens, _ = towers.tokenize(["a dog"])
    eos = towers.config.eos_token_id

    def at(length):
        padded = np.array([tokens[0] + [eos] * (length - len(tokens[0]))], np.int32)
        tower = clip_vit.TextTower(towers.config, jnp.float32)
        return np.asarray(embedded(tower, towers.params["text"], padded))

    np.testing.assert_allclose(unit(at(length)), unit(at(77)), atol=1e-6)


def test_texts_of_any_number_and_order(towers):
    texts = [f"{'word ' * (i % 14)}{i % 5}" for i in range(101)]
    found = towers.encode_text(texts, batch_size=8)
    assert found.shape == (101, 32) and found.dtype == np.float32
    for i in (0, 13, 57, 100):
        alone = towers.encode_text([texts[i]], batch_size=8)[0]
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


@pytest.mark.parametrize(
    "texts, words",
    [
        ("a dog", r"found a single one; pass \['a dog'\]"),
        (b"a dog", "a list of strings"),
        (["a dog", 3], "number 1 is 3, of type int"),
        ([None], "number 0 is None, of type NoneType"),
        (["a dog", "a \ud800 cat"], r"text number 1 .* lone surrogate at 2: a .ud800"),
    ],
)
def test_texts_that_are_refused(towers, texts, words):
    for method in (towers.encode_text, towers.embed_text, towers.tokenize):
        with pytest.raises(ValueError, match=words):
            method(texts)


def test_embed_text_tokenises_once(towers, monkeypatch):
    calls = []
    real = clip_vit.tokenize

    def counted(tokenizer, texts, config):
        calls.append(list(texts))
        return real(tokenizer, texts, config)

    monkeypatch.setattr(clip_vit, "tokenize", counted)
    found, truncated = towers.embed_text(TEXTS, batch_size=8)
    assert calls == [[CLEANINGS["lower"](text) for text in sorted(set(TEXTS))]]
    assert truncated.tolist() == [False] * 7 + [True]
    np.testing.assert_array_equal(found, towers.encode_text(TEXTS, batch_size=8))
    assert [a.shape for a in towers.embed_text([])] == [(0, 32), (0,)]


def test_long_texts_are_cut_in_silence(towers, capfd):
    """transformers would say that the model is about to fail; it is not."""
    towers.tokenize(["y" * 400])
    assert capfd.readouterr().err == ""


def test_embeddings_that_are_not_finite_stop(tiny_clip, towers):
    damaged = load_towers(tiny_clip[0])
    damaged.params["text"]["ln_final"]["norm"]["bias"] = np.full(48, np.nan, np.float32)
    with pytest.raises(ValueError, match="NaN or infinite for 2 of 2 texts"):
        damaged.encode_text(["a dog", "a cat"])


def test_the_families_are_found():
    assert list(families()) == ["clip_resnet", "clip_vit", "general_vit"]


def test_the_readme_names_all_that_a_family_needs():
    folder = Path(__file__).parent.parent / "item_jax" / "towers"
    readme = (folder / "README.md").read_text()
    for name in families_lib.FAMILY_NEEDS:
        assert f"| `{name}" in readme
    for file in Path(families_lib.__file__).parent.glob("[a-z]*.py"):
        assert f"`{file.name}`" in readme


def test_the_outputs_of_the_image_tower(tiny_clip, towers):
    """The class token behind ln_2 of each block, as RINE, and before the projection."""
    model, views = CLIPModel.from_pretrained(tiny_clip[0]).eval(), random_views(3, 32)
    seen = []
    for layer in model.vision_model.encoder.layers:
        layer.layer_norm2.register_forward_hook(
            lambda module, inputs, out: seen.append(out[:, 0].numpy())
        )
    model.vision_model.post_layernorm.register_forward_hook(
        lambda module, inputs, out: seen.append(out.numpy())
    )
    embedding = torch_image(model, views, towers.config)
    assert towers.image_outputs == {
        "embedding": (32,),
        "pooled": (64,),
        "class_tokens": (3, 64),
        "block_tokens": (3, 32),
    }
    names = ["class_tokens", "embedding", "pooled"]
    for mode in ("jit", "pmap"):
        found = towers.encode_image(views, outputs=names, batch_size=8, mode=mode)
        assert list(found) == names
        tokens = np.stack(seen[:3], axis=1)
        np.testing.assert_allclose(found["class_tokens"], tokens, atol=1e-5)
        np.testing.assert_allclose(found["pooled"], seen[3], atol=1e-5)
        np.testing.assert_allclose(found["embedding"], embedding, atol=1e-5)
    alone = towers.encode_image(views, outputs=["embedding"])["embedding"]
    np.testing.assert_array_equal(alone, towers.encode_image(views))
    none = towers.encode_image(views[:0], outputs=names)
    assert none["class_tokens"].shape == (0, 3, 64)


@pytest.mark.parametrize("outputs", ["pooled", [], ["pool"]])
def test_outputs_that_are_refused(towers, outputs):
    words = "mean 'pooled'" if outputs == ["pool"] else "a list of names"
    with pytest.raises(ValueError, match=words):
        towers.encode_image(random_views(1, 32), outputs=outputs)


def test_a_family_is_chosen_by_name(tiny_clip, towers):
    assert load_towers(tiny_clip[0], family="clip_vit").family == towers.family
    with pytest.raises(ValueError, match="tower family 'clip_vitt'.*mean 'clip_vit'"):
        load_towers(tiny_clip[0], family="clip_vitt")
    with pytest.raises(
        ValueError, match="numpy.linalg' lacks LAYOUTS, TOKENIZER_FILES"
    ):
        load_towers(tiny_clip[0], family="numpy.linalg")


OUTSIDE = '''
"""Mean colour against letter counts: the smallest family there can be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from item_jax.towers.checkpoint import Layout
from item_jax.towers.checks import size

LAYOUTS = [
    Layout(
        "mine",
        "config.json",
        ("model.safetensors",),
        {
            "vision/kernel": ("colour.weight", lambda t: t.T),
            "text/table": ("letters.weight", lambda t: t),
        },
    )
]
TOKENIZER_FILES = ()


@dataclasses.dataclass(frozen=True)
class Config:
    embed_dim: int
    image_size: int


def read_config(files):
    raw = files.json("config.json")
    if raw is None or raw.get("model_type") != "mine":
        return None
    return Config(
        embed_dim=size(raw, "embed_dim", files.source, most=1000),
        image_size=size(raw, "image_size", files.source, most=1000),
    )


def param_shapes(config, dtype):
    d = config.embed_dim
    return {
        "vision": {"kernel": jax.ShapeDtypeStruct((3, d), dtype)},
        "text": {"table": jax.ShapeDtypeStruct((128, d), dtype)},
    }


def encoder(tower, *, config, dtype, device):
    def image(params, views):
        return views.mean((1, 2)).astype(jnp.float32) @ params["kernel"]

    def text(params, tokens):
        return params["table"][tokens].sum(1)

    return image if tower == "vision" else text


def load_tokenizer(files, config):
    return None


def tokenize(tokenizer, texts, config):
    return [[min(ord(c), 127) for c in t[:10]] for t in texts], np.array(
        [len(t) > 10 for t in texts]
    )


def pad_tokens(rows, config):
    return np.array([row + [0] * (10 - len(row)) for row in rows], np.int32)
'''


def test_a_family_of_somebody_else(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "elsewhere_towers.py").write_text(OUTSIDE)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    raw = {"model_type": "mine", "embed_dim": 5, "image_size": 4}
    (folder / "config.json").write_text(json.dumps(raw))
    rng = np.random.default_rng(0)
    colour = rng.normal(size=(5, 3)).astype(np.float32)
    letters = rng.normal(size=(128, 5)).astype(np.float32)
    letters[0] = 0
    save_file(
        {"colour.weight": colour, "letters.weight": letters},
        folder / "model.safetensors",
    )
    with pytest.raises(ValueError, match="model_type 'mine'; no family .*clip_vit"):
        load_towers(folder)
    towers = load_towers(folder, family="elsewhere_towers")
    assert (towers.family, towers.embed_dim, towers.image_size) == (
        "elsewhere_towers",
        5,
        4,
    )
    assert len(towers.checkpoint_sha256) == 64
    views = random_views(9, 4)
    np.testing.assert_allclose(
        towers.encode_image(views), views.mean((1, 2)) @ colour.T, rtol=1e-5
    )
    found, truncated = towers.embed_text(["ab", "a much longer text"])
    np.testing.assert_allclose(
        found[0], letters[[ord("a"), ord("b")]].sum(0), rtol=1e-5
    )
    assert truncated.tolist() == [False, True]
    # And what it cannot read is refused in its name.
    (folder / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(ValueError, match="'other'.*asked: elsewhere_towers"):
        load_towers(folder, family="elsewhere_towers")
