import json

import jax
import numpy as np
import pytest
import torch

from item_jax import heads, metrics, train
from item_jax.embed import embed_records
from item_jax.heads import Head


@pytest.fixture
def toy():
    """A two-class problem that a line does not solve: inside or outside a sphere."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(603, 8)).astype(np.float32)  # 603: a short last batch
    y = ((x**2).sum(1) > 7.3).astype(np.int32)
    return x, y


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def assert_equal(a, b):
    for x, y in zip(leaves(a), leaves(b)):
        np.testing.assert_array_equal(x, y)


def test_one_epoch_equals_torch(toy, config):
    """The same start, batches and order give PyTorch's AdamW to rounding."""
    x, y = toy
    config.train.epochs = 1
    config.head.hidden_dim = 16
    first = []
    original = heads.MLP.init

    (ours,) = train.fit(x, y, config, seeds=[3])
    key = jax.random.key(3)
    module = heads.make("mlp", hidden_dim=16)
    start = original(module, jax.random.fold_in(key, 0), x[:1])["params"]
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 1), len(x)))
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    )
    with torch.no_grad():
        for layer, name in ((net[0], "hidden"), (net[2], "output")):
            layer.weight.copy_(torch.tensor(np.asarray(start[name]["kernel"]).T))
            layer.bias.copy_(torch.tensor(np.asarray(start[name]["bias"])))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-3)
    for i in range(0, len(x), config.train.batch_size):
        batch = torch.tensor(order[i : i + config.train.batch_size])
        logits = net(torch.tensor(x)[batch])
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y).long()[batch])
        first.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert len(first) == 5  # 603 rows in batches of 128: none is dropped
    for layer, name in ((net[0], "hidden"), (net[2], "output")):
        np.testing.assert_allclose(
            ours[name]["kernel"], layer.weight.detach().numpy().T, atol=2e-6
        )
        np.testing.assert_allclose(
            ours[name]["bias"], layer.bias.detach().numpy(), atol=2e-6
        )


def test_it_learns_what_a_line_cannot(toy, config):
    x, y = toy
    config.train.epochs = 150
    auc = {}
    for name in heads.HEADS:
        config.head.name = name
        (params,) = train.fit(x[:400], y[:400], config, seeds=[0])
        logits = heads.make(name, hidden_dim=512).apply({"params": params}, x[400:])
        auc[name] = metrics.roc_auc(y[400:], np.asarray(heads.p_fake(logits)))
    assert auc["mlp"] > 0.9 and auc["linear"] < 0.7


def test_heads_side_by_side_are_heads_alone(toy, config):
    x, y = toy
    config.train.epochs = 3
    together = train.fit(x, y, config, seeds=[0, 1, 2])
    for seed, params in enumerate(together):
        (alone,) = train.fit(x, y, config, seeds=[seed])
        for a, b in zip(leaves(params), leaves(alone)):
            np.testing.assert_allclose(a, b, atol=1e-5)
    variants = np.stack([x, 2 * x])
    one, two = train.fit(variants, y, config, seeds=[0, 0])
    (alone,) = train.fit(2 * x, y, config, seeds=[0])
    for a, b in zip(leaves(two), leaves(alone)):
        np.testing.assert_allclose(a, b, atol=1e-5)


class Stop(Exception):
    pass


def test_a_stopped_run_resumes_exactly(toy, config, tmp_path):
    x, y = toy
    config.train.epochs = 9
    config.train.checkpoint_every = 2
    options = dict(seeds=[0, 1])
    whole = train.fit(x, y, config, **options)

    def stop(epoch, losses):
        if epoch == 7:
            raise Stop

    with pytest.raises(Stop):
        train.fit(x, y, config, checkpoints=tmp_path, on_epoch=stop, **options)
    epochs = []
    resumed = train.fit(
        x,
        y,
        config,
        checkpoints=tmp_path,
        on_epoch=lambda epoch, losses: epochs.append(epoch),
        **options,
    )
    assert epochs == [7, 8, 9]
    for a, b in zip(whole, resumed):
        assert_equal(a, b)


def test_checkpoints_of_another_run_are_not_used(toy, config, tmp_path):
    x, y = toy
    config.train.epochs = 4
    config.train.checkpoint_every = 1
    epochs = []
    options = dict(checkpoints=tmp_path, on_epoch=lambda e, _: epochs.append(e))
    train.fit(x, y, config, seeds=[0], **options)
    config.train.learning_rate = 2e-3
    changed = train.fit(x, y, config, seeds=[0], **options)
    assert epochs == [1, 2, 3, 4] * 2
    assert_equal(changed, train.fit(x, y, config, seeds=[0]))


def test_a_loss_that_is_no_number_stops(toy, config):
    x, y = toy
    x[0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="epoch 1"):
        train.fit(x, y, config, seeds=[0])


@pytest.fixture
def cache(photos, towers, config, tmp_path):
    root, records = photos
    return embed_records(records, towers, config, images=root, folder=tmp_path / "e")


def test_train_heads_writes_what_from_pretrained_reads(cache, config, tmp_path):
    config.train.epochs = 2
    config.train.seeds = 2
    made = train.train_heads(cache, config, workdir=tmp_path)
    assert sorted(p.name for p in (tmp_path / "head").iterdir()) == [
        *("README.md", "config.json", "head.safetensors", "seed-1")
    ]
    d = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    for head, folder in zip(made, ("head", "head/seed-1")):
        again = Head.load(tmp_path / folder)
        assert again.config == json.loads(json.dumps(head.config))
        np.testing.assert_array_equal(again.p_fake(d), head.p_fake(d))
    assert made[0].config["training"]["real"] == 6
    assert made[0].config["training"]["generators"] == ["gan", "vae"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert not (tmp_path / "checkpoints").exists()


def test_a_new_training_replaces_all_heads_of_the_old(cache, config, tmp_path):
    config.train.epochs, config.train.seeds = 1, 3
    train.train_heads(cache, config, workdir=tmp_path)
    config.train.seeds = 2
    train.train_heads(cache, config, workdir=tmp_path)
    seeds = sorted(p.name for p in (tmp_path / "head").glob("seed-*"))
    assert seeds == ["seed-1"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_training_generators_are_chosen(cache, config):
    config.train.epochs = 1
    config.train.generators = ("vae",)
    (head,) = train.train_heads(cache, config)
    assert head.config["training"]["generators"] == ["vae"]
    config.train.generators = ("vea",)
    with pytest.raises(ValueError, match=r"0 real and 0 fake.*\('train', 'vae'\)"):
        train.train_heads(cache, config)
    config.train.generators = ("vae", "gna")
    with pytest.raises(ValueError, match="no image of 'gna'"):
        train.train_heads(cache, config)


def test_a_head_refuses_other_widths_and_damage(cache, config, tmp_path):
    config.train.epochs = 1
    train.train_heads(cache, config, workdir=tmp_path)
    folder = tmp_path / "head"
    head = Head.load(folder)
    with pytest.raises(ValueError, match="width 32 .*'item'.* found width 64"):
        head.p_fake(np.zeros((1, 64), np.float32))
    with pytest.raises(ValueError, match="no head in .*config.json is missing"):
        Head.load(tmp_path)
    config_json = json.loads((folder / "config.json").read_text())
    config_json["head"]["hidden_dim"] = 7
    (folder / "config.json").write_text(json.dumps(config_json))
    with pytest.raises(ValueError, match=r"\[32, 512\].*describes.*\[32, 7\]"):
        Head.load(folder)
    config_json["head"]["name"] = "mpl"
    (folder / "config.json").write_text(json.dumps(config_json))
    with pytest.raises(ValueError, match="Did you mean 'mlp'"):
        Head.load(folder)
    data = (folder / "head.safetensors").read_bytes()
    (folder / "head.safetensors").write_bytes(data[:50])
    with pytest.raises(ValueError, match="is damaged"):
        Head.load(folder)


def test_loss_is_binary_cross_entropy():
    logits = np.array([[0.2, 1.5], [2.0, -1.0], [0.3, 0.1]], np.float32)
    labels = np.array([1, 0, 1])
    p = 1 / (1 + np.exp(-(logits[:, 1] - logits[:, 0])))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    found = heads.bce_loss(logits, labels, np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(found, expected[:2].mean(), rtol=1e-6)
    np.testing.assert_allclose(heads.p_fake(logits), p, rtol=1e-6)
