"""Outputs of the image tower beside its embedding: in towers, caches and detectors."""

import copy
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_towers
import torch
from test_towers import random_views

from item_jax import ItemDetector, images, settings, views
from item_jax import config as config_lib
from item_jax.__main__ import main
from item_jax.cache import EmbeddingCache
from item_jax.datasets.dataset import RecordList
from item_jax.embed import embed_records
from item_jax.evaluate import evaluate_methods
from item_jax.fitted import FittedMethod
from item_jax.records import write_records
from item_jax.towers import clip_resnet, clip_vit, outputs
from item_jax.towers.attention import HEADS_FIRST, WRITTEN_OUT
from item_jax.towers.towers import Towers, load_towers
from item_jax.train import fit_method, training_set

NAMES = ("pooled", "class_tokens", "block_tokens")


def torch_outputs(model, pixels, config):
    """`hidden_states` of transformers, and what its last LayerNorm returns."""
    x = torch.from_numpy(pixels).float() / 255
    x = (x - torch.tensor(config.image_mean)) / torch.tensor(config.image_std)
    normed = []
    hooks = [
        layer.layer_norm2.register_forward_hook(
            lambda module, inputs, out: normed.append(out[:, 0].numpy())
        )
        for layer in model.vision_model.encoder.layers
    ]
    with torch.no_grad():
        seen = model.vision_model(x.permute(0, 3, 1, 2), output_hidden_states=True)
        blocks = [
            model.visual_projection(state[:, 0]) for state in seen.hidden_states[1:]
        ]
        embedding = model.visual_projection(seen.pooler_output)
    for hook in hooks:
        hook.remove()
    return {
        "embedding": embedding.numpy(),
        "pooled": seen.pooler_output.numpy(),
        "class_tokens": np.stack(normed, 1),
        "block_tokens": torch.stack(blocks, 1).numpy(),
    }


class Reader:
    """A method: a linear score on outputs of the image tower."""

    def __init__(self, *needs):
        self.NEEDS = needs
        self.__name__ = "reader"

    def fit(self, parts, config):
        return {"bias": 0.5}

    def score(self, state, part):
        x = sum(
            part.outputs[name].astype(np.float32).reshape(len(part), -1).mean(1)
            for name in self.NEEDS
        )
        return 1 / (1 + np.exp(-x - state["bias"]))


METHOD = Reader("block_tokens")
"""Found by name, as `test_outputs`."""


@pytest.fixture(scope="module")
def with_outputs(photos, towers, tmp_path_factory):
    c = config_lib.default()
    c.embed.shard_size, c.embed.threads, c.embed.batch_size = 10, 2, 16
    c.embed.outputs = ("block_tokens", "pooled")
    root, records = photos
    folder = tmp_path_factory.mktemp("outputs") / "e"
    return embed_records(records, towers, c, images=root, folder=folder)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_towers_against_transformers(tiny_clip, towers, mode):
    pixels = random_views(3, 32)
    expected = torch_outputs(tiny_clip[1], pixels, towers.config)
    found = towers.encode_image(pixels, outputs=[*NAMES, "embedding"], mode=mode)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_a_tpus_layout_has_the_same_outputs(tiny_clip, towers):
    pixels = random_views(2, 32)
    expected = torch_outputs(tiny_clip[1], pixels, towers.config)
    shapes = towers.output_shapes(NAMES)
    for attention in (HEADS_FIRST, WRITTEN_OUT):
        tower = clip_vit.VisionTower(towers.config, np.float32, attention)
        rows = outputs.joined(tower, towers.params["vision"], pixels, NAMES)
        for name, value in outputs.split(np.asarray(rows), shapes, NAMES).items():
            np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_block_tokens_of_metaclip_2(tmp_path):
    model = tiny_towers.save_metaclip_2(tmp_path).eval()
    towers = load_towers(tmp_path)
    pixels = random_views(2, towers.image_size)
    expected = torch_outputs(model, pixels, towers.config)
    one = {"devices": jax.devices()[:1], "batch_size": 4}
    found = towers.encode_image(pixels, outputs=NAMES, **one)
    for name in NAMES:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_a_cache_holds_those_of_whole_images(with_outputs, photos, tiny_clip, towers):
    root, records = photos
    seen = 0
    for part, _ in with_outputs:
        assert set(part.outputs) == {"pooled", "block_tokens"}
        whole = [
            views.global_view(images.read_image(root, row["key"]), 32, geometry="item")
            for row in part.rows
        ]
        expected = torch_outputs(tiny_clip[1], np.stack(whole), towers.config)
        for name, value in part.outputs.items():
            assert value.dtype == np.float16 and len(value) == len(part)
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(part.image_emb, expected["embedding"], atol=1e-5)
        seen += len(part)
    assert seen == len(records)
    stored = with_outputs.embedding["outputs"]
    assert stored == {"pooled": [64], "block_tokens": [3, 32]}


def test_the_embedding_is_the_same_with_and_without(
    with_outputs, photos, towers, config, tmp_path
):
    root, records = photos
    plain = embed_records(records, towers, config, images=root, folder=tmp_path / "e")
    for (a, _), (b, _) in zip(with_outputs, plain):
        for name, value in b.arrays().items():
            np.testing.assert_allclose(getattr(a, name), value, atol=1e-5)
        assert not b.outputs


def test_outputs_follow_their_images(with_outputs):
    part, _ = with_outputs.read(0)
    index = np.array([3, 0, 3])
    taken = part.take(index)
    for name, value in taken.outputs.items():
        np.testing.assert_array_equal(value, part.outputs[name][index])
    fakes = part.where(lambda row: row["label"] == "fake")
    mask = part.labels == 1
    np.testing.assert_array_equal(fakes.outputs["pooled"], part.outputs["pooled"][mask])


def test_a_method_reads_them_in_cache_and_detector(
    with_outputs, photos, towers, config, tmp_path
):
    """Scored one picture at a time, by towers that compute only what it needs."""
    root, records = photos
    data = training_set(with_outputs, config)
    [fitted] = fit_method("test_outputs", data, config)
    assert fitted.embedding["outputs"] == {"block_tokens": [3, 32]}
    fitted.save(tmp_path / "head")
    detector = ItemDetector(towers, FittedMethod.load(tmp_path / "head"), config)
    expected = np.concatenate([fitted.score(part) for part, _ in with_outputs])
    assert np.ptp(expected) > 1e-3
    found = [detector.predict(r, images=root)[0].p_fake for r in records[:5]]
    np.testing.assert_allclose(found, expected[:5], atol=1e-4)
    embeddings, _ = detector._embed(RecordList(records[:2], root))
    assert set(embeddings.outputs) == {"block_tokens"}


@pytest.mark.parametrize(
    "needs, lacking",
    [
        (("class_tokens",), "class_tokens"),
        (("image_emb", "class_tokens", "pooled"), "class_tokens"),
    ],
)
def test_a_cache_that_lacks_one_is_refused_by_name(
    with_outputs, config, needs, lacking
):
    method = Reader(*needs)
    command = "item-jax embed --cache NAME --outputs pooled,class_tokens,block_tokens"
    words = f"method 'reader' needs {lacking} of the image tower.*{command}"
    data = training_set(with_outputs, config)
    with pytest.raises(ValueError, match=words):
        fit_method(method, data, config)
    fitted = FittedMethod({"method": "reader"}, {"bias": 0.5}, method)
    with pytest.raises(ValueError, match=words):
        fitted.score(next(iter(with_outputs))[0])


def test_evaluate_refuses_before_it_reads(
    with_outputs, photos, towers, config, tmp_path, monkeypatch
):
    root, records = photos
    plain = embed_records(records, towers, config, images=root, folder=tmp_path / "e")
    [fitted] = fit_method(Reader("pooled"), training_set(with_outputs, config), config)
    monkeypatch.setattr(EmbeddingCache, "read", None)
    with pytest.raises(ValueError, match="needs pooled .*--outputs pooled`"):
        evaluate_methods(plain, {"reader": [fitted]}, config)


def test_outputs_that_a_method_does_not_read_are_no_difference(with_outputs, config):
    data = training_set(with_outputs, config)
    [fitted] = fit_method("cosine", data, config)
    assert fitted.embedding["outputs"] == {}
    assert settings.compare(fitted.embedding, with_outputs.embedding, what="h") == []


def test_another_choice_of_outputs_is_another_cache(
    with_outputs, photos, towers, config
):
    root, records = photos
    config.embed.outputs = ("pooled",)
    with pytest.raises(ValueError, match=r"outputs.block_tokens was \[3, 32\]"):
        embed_records(records, towers, config, images=root, folder=with_outputs.folder)
    config.embed.outputs = ("pooled", "block_tokens")  # in any order
    embed_records(records, towers, config, images=root, folder=with_outputs.folder)


def siglip(folder):
    tiny_towers.save_siglip(folder)
    return load_towers(folder)


def resnet(folder):
    sizes = SimpleNamespace(embed_dim=32, image_size=32)
    return Towers("RN", "clip_resnet", clip_resnet, sizes, {}, "float32", None)


@pytest.mark.parametrize("make", [siglip, resnet])
def test_towers_without_one_refuse_it_by_name(make, photos, config, tmp_path):
    root, records = photos
    (tmp_path / "t").mkdir()
    towers = make(tmp_path / "t")
    config.embed.outputs = ("block_tokens",)
    with pytest.raises(ValueError, match="'block_tokens'; allowed: embedding"):
        embed_records(records, towers, config, images=root, folder=tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_an_unknown_output_is_refused(config):
    config.embed.outputs = ("pooled", "block_token")
    with pytest.raises(ValueError, match="embed.outputs is 'block_token'.*'block_tok"):
        config_lib.check(config)


@pytest.mark.parametrize("found", [[], {"x": [3]}, {"pooled": 64}, {"pooled": [-1]}])
def test_outputs_of_a_file_are_checked(with_outputs, found):
    stored = with_outputs.embedding | {"outputs": found}
    with pytest.raises(ValueError, match="m.json: 'embedding.outputs' is "):
        settings.check({"embedding": stored}, "m.json")


def test_values_beyond_float16_are_refused_by_key(photos, towers, config, tmp_path):
    root, records = photos
    vision = dict(towers.params["vision"])
    vision["projection"] = {"kernel": vision["projection"]["kernel"] * 1e6}
    loud = copy.copy(towers)
    loud.params, loud._encoders = towers.params | {"vision": vision}, {}
    config.embed.outputs = ("block_tokens",)
    key = records[0].key
    with pytest.raises(ValueError, match=f"block_tokens of '{key}' is not finite"):
        embed_records(records, loud, config, images=root, folder=tmp_path / "e")


def test_the_command_says_the_cost_first(photos, tiny_clip, tmp_path, capsys):
    root, records = photos
    write_records(tmp_path / "records.jsonl", records)
    words = ["embed", "--workdir", tmp_path, f"--config.tower={tiny_clip[0]}"]
    words += [f"--config.data.images={root}", "--outputs", "block_tokens,pooled"]
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "outputs: block_tokens [3, 32], pooled [64], 320 bytes an image, 7.68 kB for "
        "24 images"
    )
    cache = EmbeddingCache(tmp_path / "embeddings")
    assert sum(part.outputs["pooled"].nbytes for part, _ in cache) == 24 * 64 * 2
