import jax
import numpy as np
import pytest
import torch

from item_jax import heads, metrics
from item_jax.training_loop import fit


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

    (ours,) = fit(x, y, config, seeds=[3])
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
        (params,) = fit(x[:400], y[:400], config, seeds=[0])
        logits = heads.make(name, hidden_dim=512).apply({"params": params}, x[400:])
        auc[name] = metrics.roc_auc(y[400:], np.asarray(heads.p_fake(logits)))
    assert auc["mlp"] > 0.9 and auc["linear"] < 0.7


def test_heads_side_by_side_are_heads_alone(toy, config):
    x, y = toy
    config.train.epochs = 3
    together = fit(x, y, config, seeds=[0, 1, 2])
    for seed, params in enumerate(together):
        (alone,) = fit(x, y, config, seeds=[seed])
        for a, b in zip(leaves(params), leaves(alone)):
            np.testing.assert_allclose(a, b, atol=1e-5)


class Stop(Exception):
    pass


def test_a_stopped_run_resumes_exactly(toy, config, tmp_path):
    x, y = toy
    config.train.epochs = 9
    config.train.checkpoint_every = 2
    options = dict(seeds=[0, 1])
    whole = fit(x, y, config, **options)

    def stop(epoch, losses):
        if epoch == 7:
            raise Stop

    with pytest.raises(Stop):
        fit(x, y, config, checkpoints=tmp_path, on_epoch=stop, **options)
    epochs = []
    resumed = fit(
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
    fit(x, y, config, seeds=[0], **options)
    config.train.learning_rate = 2e-3
    changed = fit(x, y, config, seeds=[0], **options)
    assert epochs == [1, 2, 3, 4] * 2
    assert_equal(changed, fit(x, y, config, seeds=[0]))


@pytest.mark.slow
def test_checkpoints_without_their_mark_are_never_adopted(toy, config, tmp_path):
    """A kill while they were being deleted left another seed's steps behind."""
    x, y = toy
    config.train.epochs, config.train.checkpoint_every = 4, 1

    def stop(epoch, losses):
        if epoch == 3:
            raise Stop

    with pytest.raises(Stop):
        fit(x, y, config, seeds=[7], checkpoints=tmp_path / "c", on_epoch=stop)
    assert any((tmp_path / "c" / "steps").iterdir())
    for damage in (lambda mark: mark.unlink(), lambda mark: mark.write_text("{")):
        damage(tmp_path / "c" / "run.json")
        epochs = []
        found = fit(
            x,
            y,
            config,
            seeds=[0],
            checkpoints=tmp_path / "c",
            on_epoch=lambda epoch, losses, epochs=epochs: epochs.append(epoch),
        )
        assert epochs == [1, 2, 3, 4]
        assert_equal(found, fit(x, y, config, seeds=[0]))


def test_features_that_are_not_finite_are_refused(toy, config):
    x, y = toy
    x[5, 0] = np.nan
    with pytest.raises(ValueError, match="features of row 5 are not finite"):
        fit(x, y, config, seeds=[0])


def test_a_loss_that_is_not_finite_stops(toy, config):
    x, y = toy
    config.train.learning_rate = 1e30
    with pytest.raises(FloatingPointError, match="lower train.learning_rate"):
        fit(x, y, config, seeds=[0])


def test_loss_is_binary_cross_entropy():
    logits = np.array([[0.2, 1.5], [2.0, -1.0], [0.3, 0.1]], np.float32)
    labels = np.array([1, 0, 1])
    p = 1 / (1 + np.exp(-(logits[:, 1] - logits[:, 0])))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    found = heads.bce_loss(logits, labels, np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(found, expected[:2].mean(), rtol=1e-6)
    np.testing.assert_allclose(heads.p_fake(logits), p, rtol=1e-6)
