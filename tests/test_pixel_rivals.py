"""Rivals on pixels: networks against PyTorch, pictures against the towers' pipeline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn as tnn

from item_jax import config as config_lib
from item_jax import methods, pixel_probe
from item_jax.cache import EmbeddingCache
from item_jax.datasets.dataset import RecordList
from item_jax.detector import ItemDetector
from item_jax.embed import embed_records
from item_jax.fitted import FittedMethod
from item_jax.methods import _network, _pictures, npr, resnet50
from item_jax.methods._resnet import ResNet
from item_jax.pixels import Pictures
from item_jax.train import adapted, fit_method, training_set


def count(module, size):
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))


def test_parameters_are_those_published():
    assert count(npr.Network(), 256) == 1_437_761
    # torchvision's ResNet-50 has 25,557,032, of which 2,049,000 in a layer to 1,000.
    assert count(resnet50.NETWORK, 224) == 25_557_032 - 2_049_000 + 2048 + 1


# -------------------------------------------------- an independent ResNet in PyTorch


class Bottleneck(tnn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        layers = []
        for a, b, k, s in (
            (channels, width, 1, 1),
            (width, width, 3, stride),
            (width, 4 * width, 1, 1),
        ):
            layers += [tnn.Conv2d(a, b, k, s, k // 2, bias=False), tnn.BatchNorm2d(b)]
        self.layers = tnn.ModuleList(layers)
        self.skip = tnn.ModuleList()
        if channels != 4 * width or stride != 1:
            skip = tnn.Conv2d(channels, 4 * width, 1, stride, bias=False)
            self.skip.extend([skip, tnn.BatchNorm2d(4 * width)])

    def forward(self, x):
        conv1, norm1, conv2, norm2, conv3, norm3 = self.layers
        out = norm2(conv2(norm1(conv1(x)).relu())).relu()
        out = norm3(conv3(out))
        for layer in self.skip:
            x = layer(x)
        return (x + out).relu()


class TorchResNet(tnn.Module):
    def __init__(self, stages, stem):
        super().__init__()
        self.stem = tnn.Conv2d(3, 64, stem, 2, stem // 2, bias=False)
        self.norm = tnn.BatchNorm2d(64)
        blocks, channels = [], 64
        for stage, number in enumerate(stages):
            for block in range(number):
                stride = 2 if stage and not block else 1
                blocks.append(Bottleneck(channels, 64 * 2**stage, stride))
                channels = 4 * 64 * 2**stage
        self.blocks = tnn.ModuleList(blocks)
        self.output = tnn.Linear(channels, 1)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = tnn.functional.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return self.output(x.mean((2, 3)))[:, 0]

    def pairs(self, stages):
        """Our names and their layers."""
        yield "stem", self.stem
        yield "stem_norm", self.norm
        names = [f"{s}_{b}" for s, number in enumerate(stages) for b in range(number)]
        for name, block in zip(names, self.blocks):
            for i, layer in enumerate(block.layers):
                yield f"{name}_{('conv', 'norm')[i % 2]}{i // 2 + 1}", layer
            for layer, end in zip(block.skip, ("skip", "skip_norm")):
                yield f"{name}_{end}", layer
        yield "output", self.output

    def take(self, stages, params):
        with torch.no_grad():
            for name, layer in self.pairs(stages):
                own = {k: torch.tensor(np.array(v)) for k, v in params[name].items()}
                if isinstance(layer, tnn.Conv2d):
                    layer.weight.copy_(own["kernel"].permute(3, 2, 0, 1))
                elif isinstance(layer, tnn.BatchNorm2d):
                    layer.weight.copy_(own["scale"])
                    layer.bias.copy_(own["bias"])
                else:
                    layer.weight.copy_(own["kernel"].T)
                    layer.bias.copy_(own["bias"])


def nhwc(x):
    return x.permute(0, 2, 3, 1).detach().numpy()


@pytest.mark.slow
def test_npr_is_pytorchs():
    """Training and test outputs, the gradient, the running means, from one start."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 32, 32, 3)).astype(np.float32)
    labels = np.array([0, 1, 1, 0, 1, 1])
    valid = np.array([1, 1, 1, 1, 1, 0])  # the last one is padding
    module = npr.Network()
    variables = module.init(jax.random.key(0), x)

    def loss(params):
        own = variables | {"params": params}
        logits, changed = module.apply(
            own, x, train=True, valid=jnp.asarray(valid > 0), mutable=["batch_stats"]
        )
        return _network.bce(logits, jnp.asarray(labels), jnp.asarray(valid)), changed

    grad_fn = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, changed), gradient = grad_fn(variables["params"])
    net = TorchResNet((3, 4), 3)
    net.take((3, 4), variables["params"]["net"])
    pictures = torch.tensor(x[:5]).permute(0, 3, 1, 2)
    half = tnn.functional.interpolate(pictures, scale_factor=0.5, mode="nearest")
    rest = pictures - tnn.functional.interpolate(half, scale_factor=2, mode="nearest")
    np.testing.assert_array_equal(npr.residual(jnp.asarray(x[:5])), nhwc(rest))
    logits = net(rest * 2 / 3)
    bce = tnn.functional.binary_cross_entropy_with_logits
    expected = bce(logits, torch.tensor(labels[:5], dtype=torch.float32))
    expected.backward()
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-4)
    stats = changed["batch_stats"]["net"]
    for name, layer in net.pairs((3, 4)):
        found = gradient["net"][name]
        if isinstance(layer, tnn.Conv2d):
            wanted = layer.weight.grad.permute(2, 3, 1, 0).numpy()
            scale = abs(wanted).max()
            np.testing.assert_allclose(found["kernel"], wanted, atol=2e-3 * scale)
        elif isinstance(layer, tnn.BatchNorm2d):
            np.testing.assert_allclose(
                stats[name]["mean"], layer.running_mean.numpy(), atol=1e-4
            )
            # PyTorch's running variance is n / (n - 1) times ours.
            np.testing.assert_allclose(
                stats[name]["var"], layer.running_var.numpy(), rtol=2e-2
            )
    net.eval()
    with torch.no_grad():
        for name, layer in net.pairs((3, 4)):
            if isinstance(layer, tnn.BatchNorm2d):
                layer.running_mean.copy_(torch.tensor(np.array(stats[name]["mean"])))
                layer.running_var.copy_(torch.tensor(np.array(stats[name]["var"])))
        expected = net(rest * 2 / 3)
    found = jax.jit(module.apply)(variables | changed, x[:5])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_stem_and_strides_of_resnet_50_are_pytorchs():
    stages = (1, 1, 1, 1)
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    module = ResNet(stages, stem=7)
    variables = module.init(jax.random.key(0), x)
    net = TorchResNet(stages, 7)
    net.take(stages, variables["params"])
    expected = net.eval()(torch.tensor(x).permute(0, 3, 1, 2)).detach()
    found = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


# --------------------------------------------------------------------------- pictures


def test_pictures_are_cut_as_they_should_be():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((20, 20), Image.BILINEAR))
    np.testing.assert_array_equal(_pictures.squashed(image, 20), expected)
    expected = np.asarray(Image.fromarray(image).resize((30, 20), Image.BILINEAR))
    np.testing.assert_array_equal(_pictures.middle(image, 20), expected[:, 5:25])
    pictures = np.arange(7 * 9 * 9 * 3, dtype=np.uint8).reshape(7, 9, 9, 3)
    windows = {
        side.tobytes()
        for picture in pictures
        for top in range(4)
        for left in range(4)
        for crop in [picture[top : top + 6, left : left + 6]]
        for side in (np.ascontiguousarray(crop), np.ascontiguousarray(crop[:, ::-1]))
    }
    crops = np.asarray(_pictures.cropped(pictures, 6, jax.random.key(0)))
    assert all(crop.tobytes() in windows for crop in crops)
    middle = np.asarray(_pictures.centred(pictures, 5))
    np.testing.assert_array_equal(middle, pictures[:, 2:7, 2:7])
    np.testing.assert_allclose(
        _pictures.standard(np.full((1, 1, 1, 3), 255, np.uint8))[0, 0, 0],
        [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225],
        rtol=1e-6,
    )


@pytest.fixture(scope="module")
def study(photos, towers, tmp_path_factory):
    """A cache of noisy pictures, and the data set they are from."""
    c = config_lib.default()
    c.embed.shard_size, c.embed.threads, c.perturb.name, c.perturb.severity = (
        *(10, 2),
        *("noise", 1),
    )
    root, records = photos
    folder = tmp_path_factory.mktemp("cache")
    embed_records(records, towers, c, images=root, folder=folder)
    return folder, RecordList(records, root), c


def test_a_part_reads_what_the_towers_saw(study):
    folder, data, config = study
    cache = EmbeddingCache(folder)
    part = next(iter(cache.select(split="test")))
    with pytest.raises(ValueError, match="set the cache's `images`"):
        part.image(0)
    cache.images = Pictures(data, cache.embedding)
    cache.images.check(cache)
    part = next(iter(cache.select(split="test"))).take(np.array([1, 0]))
    from item_jax import images, perturb

    for i in (0, 1):
        key = part.rows[i]["key"]
        clean = images.decode(images.read_bytes(data.image_root, key), max_pixels=10**6)
        noisy = perturb.perturb(clean, "noise", 1, key=key)
        assert not np.array_equal(noisy, clean)
        np.testing.assert_array_equal(part.image(i), noisy)
    with pytest.raises(ValueError, match="no image 'gone.png'"):
        cache.images("gone.png")
    other = Pictures(RecordList(data.records[1:], data.image_root), cache.embedding)
    with pytest.raises(ValueError, match="not those that .* was made of"):
        other.check(cache)


def test_the_pixel_probe_is_scikit_learns(study):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folder, data, config = study
    cache = EmbeddingCache(folder)
    cache.images = Pictures(data, cache.embedding)
    training = training_set(cache, config)
    (made,) = fit_method("dct_spectrum", training, config)
    x, y = [], []
    for part in training.parts:
        x += [pixel_probe.features(part.image(i)) for i in range(len(part))]
        y += list(part.labels)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    for part in cache.select(split="test"):
        own = [pixel_probe.features(part.image(i)) for i in range(len(part))]
        expected = model.predict_proba(own)[:, 1]
        np.testing.assert_allclose(made.score(part), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["npr"])
def test_a_network_is_trained_saved_and_scored(name, study, towers, tmp_path):
    folder, data, config = study
    cache = EmbeddingCache(folder)
    cache.images = Pictures(data, cache.embedding)
    config = config.copy_and_resolve_references()
    config.train.epochs, config.train.batch_size = 2, 4
    training = training_set(cache, config)
    (made,) = fit_method(name, training, config)
    made.save(tmp_path)
    again = FittedMethod.load(tmp_path)
    part = next(iter(cache.select(split="test")))
    p = made.score(part)
    assert len(set(p)) == len(part)
    np.testing.assert_array_equal(again.score(part), p)
    reordered = part.take(np.arange(len(part))[::-1])
    np.testing.assert_allclose(made.score(reordered)[::-1], p, atol=1e-5)
    broken = dataclasses.replace(made, state=made.state | {"params": {}})
    with pytest.raises(ValueError, match="its params differ"):
        broken.module.check(broken.state)
    # A verdict on a file: the detector gives the pixels along, clean ones here.
    detector = ItemDetector(towers, made)
    record = next(r for r in data.records if r.key == part.rows[0]["key"])
    (prediction,) = detector.predict(record, images=data.image_root)
    assert 0 <= prediction.p_fake <= 1


def test_published_settings():
    c = adapted(methods.get("npr"), config_lib.default()).train
    assert (c.epochs, c.batch_size, c.learning_rate) == (50, 32, 2e-4)
