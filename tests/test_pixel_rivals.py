"""Rivals on pixels: networks against PyTorch, pictures against the towers' pipeline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn as tnn

from item_jax import config as config_lib
from item_jax import methods, pixel_probe
from item_jax.cache import EmbeddingCache
from item_jax.datasets.dataset import RecordList
from item_jax.detector import ItemDetector
from item_jax.embed import embed_records
from item_jax.fitted import FittedMethod
from item_jax.methods import _augment, _network, _pictures, npr, resnet50
from item_jax.methods._resnet import ResNet
from item_jax.pixels import Pictures
from item_jax.train import adapted, fit_method
from item_jax.training_data import training_set


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


SMALL = ("npr", "resnet50", "cnndet", "patchforensics", "swin_t", "f3net")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_trained_saved_and_scored(name, study, towers, tmp_path):
    folder, data, config = study
    cache = EmbeddingCache(folder)
    cache.images = Pictures(data, cache.embedding)
    config = config.copy_and_resolve_references()
    config.train.epochs, config.train.batch_size = 2, 4
    training = training_set(cache, config)
    (made,) = fit_method(f"item_jax.methods.{name}:small", training, config)
    made.save(tmp_path)
    again = FittedMethod.load(tmp_path)
    part = next(iter(cache.select(split="test")))
    p = made.score(part)
    # Hardly trained: the means over patches may be equal, the logits are not.
    logits = made.module.logits(made.state, np.stack(made.module.views(part)))
    assert len(np.unique(logits)) > 1 and len(p) == len(part)
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


@pytest.mark.slow
def test_a_small_network_learns_what_can_be_seen(study):
    """Stripes among plain pictures: the loss falls and the held-out ones are told."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    pictures = rng.integers(0, 256, (96, 1, 1, 3), dtype=np.uint8)
    pictures = np.broadcast_to(pictures, (96, 64, 64, 3)).copy()
    pictures[labels == 1, :, ::2] //= 2
    method = dataclasses.replace(resnet50.small, stopping=None)
    part = dataclasses.replace(
        next(iter(EmbeddingCache(study[0]).select(split="test"))),
        rows=[
            {"key": str(i), "label": ("real", "fake")[label]}
            for i, label in enumerate(labels)
        ],
        images=lambda key: pictures[int(key)],
    )
    config = config_lib.default()
    config.train.epochs, config.train.batch_size = 6, 16
    losses = []
    (state,) = method.fit_seeds(
        [part], config, [0], on_epoch=lambda epoch, loss: losses.append(loss[0])
    )
    assert losses[-1] < losses[0] / 2
    logits = method.logits(state, jnp.asarray(pictures))
    assert _network.accuracy(logits, jnp.asarray(labels)) > 0.9


# --------------------------------------------------------------- blur, JPEG and a start


def drawn(noise=20):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:70, :90]
    waves = [np.sin(x / 9) + np.cos(y / 5), np.cos(x / 7 + y / 11), np.sin(y * x / 900)]
    image = 128 + 60 * np.stack(waves, -1) + rng.normal(size=(70, 90, 3)) * noise
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("quality", [30, 75, 100])
def test_jpeg_on_the_device_is_pillows(quality):
    from item_jax.images import decode
    from item_jax.perturb import encode_jpeg

    image = drawn()
    expected = decode(encode_jpeg(image, quality), max_pixels=10**6).astype(int)
    found = np.asarray(jax.jit(_augment.jpeg)(image, quality)).astype(int)
    # It moves pixels by 12 to 16 levels here; the two differ by 0.2 to 0.75, where a
    # frequency lies between two steps and libjpeg's whole numbers take the other one.
    assert abs(found - expected).mean() < 1
    assert abs(image.astype(int) - expected).mean() > 8


def test_blur_on_the_device_is_scipys():
    from scipy.ndimage import gaussian_filter

    image, blur = drawn(), jax.jit(_augment.blur)
    for sigma in (0.0, 0.1, 0.5, 1.3, 3.0):
        planes = [gaussian_filter(image[..., c], sigma) for c in range(3)]
        found = np.asarray(blur(image, sigma)).astype(int)
        away = abs(found - np.stack(planes, -1))
        assert away.max() <= 2 and away.mean() < 0.05


@pytest.mark.slow
def test_augmentation_comes_as_often_as_it_should():
    pictures = np.broadcast_to(drawn()[None, :16, :16], (400, 16, 16, 3))
    found = np.asarray(
        jax.jit(_augment.blur_and_jpeg(0.5))(pictures, jax.random.key(0))
    )
    same = (found == pictures).all((1, 2, 3)).mean()
    assert 0.18 < same < 0.35  # neither is 1 in 4; very weak blurs add a few
    assert len({picture.tobytes() for picture in found}) > 200


@pytest.mark.slow
def test_a_training_starts_from_torchvisions_names(tmp_path):
    """Written by PyTorch, read without it; every layer but the last is there."""
    from item_jax import published
    from item_jax.methods import _resnet

    stages = (1, 1, 1, 1)
    net = TorchResNet(stages, 7)
    module = ResNet(stages)
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    theirs = {"stem": "conv1", "stem_norm": "bn1", "output": "fc"}
    for stage in range(4):
        for kind, name in (("conv", "conv"), ("norm", "bn")):
            for i in (1, 2, 3):
                theirs[f"{stage}_0_{kind}{i}"] = f"layer{stage + 1}.0.{name}{i}"
        theirs[f"{stage}_0_skip"] = f"layer{stage + 1}.0.downsample.0"
        theirs[f"{stage}_0_skip_norm"] = f"layer{stage + 1}.0.downsample.1"
    tensors = {
        f"{theirs[ours]}.{name}": tensor
        for ours, layer in net.pairs(stages)
        for name, tensor in layer.state_dict().items()
    }
    path = tmp_path / "resnet.pth"
    torch.save(tensors, path)
    start = published.start("resnet50", path)
    found = _resnet.started(variables, start.tensors, stages)
    found["params"]["output"] = {
        "kernel": jnp.asarray(net.output.weight.detach().numpy().T),
        "bias": jnp.asarray(net.output.bias.detach().numpy()),
    }
    expected = net.eval()(torch.tensor(x).permute(0, 3, 1, 2)).detach()
    np.testing.assert_allclose(
        jax.jit(module.apply)(found, x), expected, rtol=1e-3, atol=1e-4
    )
    with pytest.raises(ValueError, match="are missing: conv1.weight"):
        _resnet.started(variables, {}, stages)
    with pytest.raises(ValueError, match="of no layer of this network: layer9"):
        more = {**start.tensors, "layer9.weight": np.zeros(3)}
        _resnet.started(variables, more, stages)
    wide = {**start.tensors, "conv1.weight": np.zeros((32, 3, 7, 7))}
    with pytest.raises(ValueError, match=r"conv1.weight has shape .*, expected"):
        _resnet.started(variables, wide, stages)


def test_only_some_methods_start_from_weights(tmp_path):
    from item_jax import published

    with pytest.raises(ValueError, match="'npr' starts from random weights; cnndet, "):
        published.start("npr", tmp_path / "x.safetensors")
    damaged = tmp_path / "x.safetensors"
    damaged.write_bytes(b"no")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        published.start("cnndet", damaged)


def test_published_settings():
    c = adapted(methods.get("npr"), config_lib.default()).train
    assert (c.epochs, c.batch_size, c.learning_rate) == (50, 32, 2e-4)
