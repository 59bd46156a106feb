"""Weights of the rivals on pixels: what their code saves scores here as it does there.

The networks are written in PyTorch under the authors' names, at full size, with random
weights and BatchNorm statistics of real pictures. They are saved as the authors' code
saves them, and the same files are scored, from the bytes of the picture to P(fake).
"""

import json
import types

import jax
import numpy as np
import pytest
import torch
import torch_networks
import torchvision_rules as torchvision
from PIL import Image
from test_pixel_pictures import FILES, THEIRS, loaded, of, sources, written

from item_jax import early_stopping, methods, published
from item_jax.__main__ import main
from item_jax.embed import embed_records
from item_jax.fitted import FittedMethod
from item_jax.methods import dire, patchforensics

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Nine files of different sizes, modes, formats and orientations."""
    folder, found, keys = tmp_path_factory.mktemp("files"), sources(), []
    chosen = [FILES[i] for i in (0, 3, 11, 13, 20, 26, 31, 37, 41)]
    for i, (width, height, mode, suffix, turn) in enumerate(chosen):
        keys.append(f"{i}.{suffix}")
        source = found[i % len(found)]
        written(folder / keys[-1], source, width, height, mode, suffix, turn)
    return folder, keys


def tensor(picture, mean, std):
    """`ToTensor`, `Normalize`."""
    x = (np.asarray(picture).astype(np.float32) / 255 - mean) / std
    return torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32)


def lively(net, pictures, mean=MEAN, std=STD):
    """The network with the statistics of pictures, its logits of deviation 2.

    Blocks add a quarter of what random ones do, as those of trained networks are not
    chaotic: otherwise float32 itself, in PyTorch too, moves logits by 2e-4.
    """
    for name, module in net.named_modules():
        if name.endswith("bn3"):
            torch.nn.init.constant_(module.weight, 0.25)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over what it sees
    shape = (96, 96)
    batch = torch.cat([tensor(p.resize(shape), mean, std) for p in pictures])
    with torch.no_grad():
        net.train()(batch)
        last = list(net.children())[-1]
        out = net.eval()(batch)
        axis = (0, *range(2, out.ndim))
        last.weight.mul_((2 / out.std(axis)).reshape(-1, *[1] * (last.weight.ndim - 1)))
        last.bias.zero_()
        last.bias.sub_(net(batch).mean(axis))
    return net


def trained(net, x):
    """The network and its optimizer after one step, as after training."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-6)
    net(x).mean().backward()
    optimizer.step()
    return optimizer


def made(kind, files):
    torch.manual_seed(0)
    pictures = [loaded(files[0] / key) for key in files[1]]
    if kind == "patchforensics":
        return lively(torch_networks.Patches(), pictures, 0.5, 0.5)
    if kind == "npr":
        return lively(torch_networks.Neighbours(), pictures)
    return lively(torch_networks.ResNet((3, 4, 6, 3)), pictures)


def compared(
    name, weights, net, files, mean=MEAN, std=STD, pool=lambda out: out.sigmoid()
):
    """Scores the files there and here; returns ours."""
    folder, keys = files
    view = THEIRS[name.removeprefix("item_jax.methods.").partition(":")[0]]
    method = methods.get(name)
    state = method.from_weights(published.tensors(weights).tensors)
    method.check(state)
    found = method.score(state, of(folder, keys))
    expected = []
    for key in keys:
        with torch.no_grad():
            x = tensor(view(loaded(folder / key)), mean, std)
            expected.append(pool(net.eval()(x)).item())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.ptp(found) > 0.1, "pictures that all score the same prove nothing"
    return found


@pytest.mark.slow
def test_cnndet_scores_as_its_authors_checkpoint(files, tmp_path):
    """{"model", "optimizer", "total_steps"}, as `networks/base_model.py` saves."""
    net = made("cnndet", files)
    optimizer = trained(net, tensor(sources()[0].convert("RGB"), MEAN, STD))
    model = net.state_dict()
    path = tmp_path / "model_epoch_best.pth"
    saved = {"model": model, "optimizer": optimizer.state_dict(), "total_steps": 7}
    torch.save(saved, path)
    compared("cnndet", path, net, files)
    # DIRE saves the same; its maps are said to be of the authors' program.
    state = dire.METHOD.from_weights(published.tensors(path).tensors)
    dire.METHOD.check(state)
    assert state["reconstruction"] == {
        **{"steps": 20, "size": 256},
        "geometry": "short_side",
    }
    settings = types.SimpleNamespace(settings={"steps": 5})
    part = types.SimpleNamespace(error_maps=settings)
    with pytest.raises(ValueError, match="made with steps 5, those trained on with 20"):
        dire.METHOD.score(state, part)


def test_npr_scores_as_its_authors_weights(files, tmp_path):
    """A bare state dictionary, and one of DataParallel."""
    net = made("npr", files)
    path = tmp_path / "NPR.pth"
    torch.save(net.state_dict(), path)
    compared("npr", path, net, files)
    parallel = tmp_path / "parallel.pth"
    torch.save({f"module.{k}": v for k, v in net.state_dict().items()}, parallel)
    states = [
        methods.get("npr").from_weights(published.tensors(p).tensors)
        for p in (path, parallel)
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_patchforensics_scores_as_its_authors_checkpoint(files, tmp_path):
    """{"state_dict", "optimizer", "scheduler", ...}; class 0 is fake there."""
    net = made("patchforensics", files)
    optimizer = trained(net, tensor(sources()[0].convert("RGB"), 0.5, 0.5))
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1000)
    path = tmp_path / "bestval_net_D.pth"
    saved = {"state_dict": net.state_dict(), "optimizer": optimizer.state_dict()}
    saved |= {"scheduler": scheduler.state_dict(), "epoch": 3}
    torch.save(saved | {"best_val_metric": 0.9, "best_val_ep": 2}, path)

    def scored(name, pool):
        name = f"item_jax.methods.{name}" if ":" in name else name
        return compared(name, path, net, files, 0.5, 0.5, pool)

    after = scored("patchforensics", lambda o: o.softmax(1)[0, 0].mean())
    before = scored("patchforensics:logits", lambda o: o.mean((2, 3)).softmax(1)[0, 0])
    votes = scored("patchforensics:voted", lambda o: (o.argmax(1) == 0).float().mean())
    assert np.abs(after - before).max() > 0.01 and np.abs(after - votes).max() > 0.01


@pytest.mark.parametrize("name", ["cnndet", "npr", "dire", "patchforensics"])
def test_other_weights_are_refused_by_name(name):
    nets = {"npr": torch_networks.Neighbours, "patchforensics": torch_networks.Patches}
    net = nets.get(name, lambda: torch_networks.ResNet((3, 4, 6, 3)))()
    tensors = torch_networks.arrays(net)
    read = methods.get(name).from_weights
    last = next(reversed(list(net.named_children())))[0]

    lacking = {k: v for k, v in tensors.items() if k != "bn1.running_var"}
    with pytest.raises(ValueError, match=r"1 tensor is missing: bn1\.running_var"):
        read(lacking)
    renamed = lacking | {"bn1.running_variance": tensors["bn1.running_var"]}
    with pytest.raises(ValueError, match=r"nearest: bn1\.running_variance"):
        read(renamed)
    with pytest.raises(ValueError, match=r"of no layer of this network: layer9\."):
        read(tensors | {"layer9.weight": np.zeros(3, np.float32)})
    # ImageNet's, of 1,000 classes
    shape = tensors[f"{last}.weight"].shape
    wide = tensors | {f"{last}.weight": np.zeros((1000, *shape[1:]), np.float32)}
    with pytest.raises(ValueError, match=rf"{last}\.weight has shape \[1000, .*, exp"):
        read(wide)


def test_weights_become_a_method_of_a_workdir(files, photos, towers, tmp_path, capsys):
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads = 10, 2
    root, records = photos
    cache = embed_records(
        records, towers, c, images=root, folder=tmp_path / "embeddings"
    )
    net = made("npr", files)
    torch.save(net.state_dict(), tmp_path / "NPR.pth")
    command = ["train", "--workdir", str(tmp_path), "--method"]
    for name in ("npr", "item_jax.methods.npr:whole"):
        words = [*command, name, "--weights", str(tmp_path / "NPR.pth")]
        assert main(words) == 0
    assert "whether they belong" not in capsys.readouterr().out
    part = next(iter(cache.select(split="test")))
    part = of(root, [row["key"] for row in part.rows])
    found = {}
    for folder, view in (
        ("npr", lambda p: torchvision.resize(p, (256, 256))),
        ("npr-whole", THEIRS["item_jax.methods.npr:whole"]),
    ):
        loaded_method = FittedMethod.load(tmp_path / "methods" / folder)
        found[folder] = loaded_method.score(part)
        with torch.no_grad():
            expected = [
                net.eval()(tensor(view(Image.fromarray(part.image(i))), MEAN, STD))
                .sigmoid()
                .item()
                for i in range(len(part))
            ]
        np.testing.assert_allclose(found[folder], expected, atol=1e-5)
    assert np.abs(found["npr"] - found["npr-whole"]).max() > 0.01
    config = json.loads((tmp_path / "methods/npr/config.json").read_text())
    assert config["training"]["real"] == 0
    with pytest.raises(ValueError, match="'f3net' cannot be made of weights"):
        published.read("f3net", tmp_path / "NPR.pth", cache, threshold=0.5)


def test_patchforensics_stops_when_its_authors_loop_does():
    """train.py: an epoch later than the best one by more than five times 20 is the
    last."""
    config = types.SimpleNamespace(learning_rate=1e-3)
    options = patchforensics.stops(config)
    stopping = early_stopping.EarlyStopping(
        lambda variables, accuracy: accuracy, **options
    )
    recipe = types.SimpleNamespace(stopping=stopping)
    rng = np.random.default_rng(0)
    for _ in range(5):
        curve = np.minimum.accumulate(rng.uniform(0.5, 0.9, 400))[::-1].copy()
        curve[rng.integers(20, 200) :] = 0.5
        best, best_epoch, last = 0.0, 0, None
        for epoch, accuracy in enumerate(curve):
            if accuracy > best:
                best, best_epoch = accuracy, epoch
            elif epoch > best_epoch + 5 * 20:
                last = epoch
                break
        state = early_stopping.init(recipe, {})
        ended = None
        for epoch, accuracy in enumerate(curve):
            state = early_stopping.judged(recipe, state, {}, np.float32(accuracy))
            if bool(state["done"]):
                ended = epoch
                break
        assert ended == last is not None
