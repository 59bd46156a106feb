"""Rivals against independent references: PyTorch from the same start, scikit-learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn as tnn

from item_jax import config as config_lib
from item_jax import methods, train, training_loop
from item_jax.embeddings import Embeddings
from item_jax.methods import _network, clip_flow, infofd, nearest, rine, vib_net

WIDTH, BLOCKS = 16, 6
bce = tnn.functional.binary_cross_entropy_with_logits


@pytest.fixture(scope="module")
def part():
    """80 images without objects; fakes differ in one direction, of tokens too."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    image = rng.normal(size=(80, WIDTH)).astype(np.float32)
    image[:, 0] += 2 * labels
    text = rng.normal(size=(80, WIDTH)).astype(np.float32)
    rows = [
        {"key": str(i), "label": ("real", "fake")[y], "generator": "g"}
        for i, y in enumerate(labels)
    ]
    none = np.zeros((0, WIDTH), np.float32)
    tokens = rng.normal(size=(80, BLOCKS, WIDTH))
    tokens[..., 0] += 2 * labels[:, None]
    tokens = tokens.astype(np.float16)
    outputs = {"class_tokens": tokens, "block_tokens": tokens * 2}
    offsets = np.zeros(81, np.int64)
    return Embeddings(rows, image, text, none, none, offsets, outputs=outputs)


@pytest.fixture
def config():
    c = config_lib.default()
    c.train.epochs, c.train.batch_size = 2, 32
    return c


def published(name, config):
    return train.adapted(methods.get(name), config)


def first_epoch(seed, count):
    """The order of the images in epoch 1."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return np.asarray(jax.random.permutation(key, count))


def torch_linear(layer):
    kernel, bias = np.array(layer["kernel"]), np.array(layer["bias"])
    made = tnn.Linear(*kernel.shape)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(kernel.T))
        made.bias.copy_(torch.tensor(bias))
    return made


def start_of(module, data, seed=0):
    key = jax.random.fold_in(jax.random.key(seed), 0)
    rows = {name: jnp.asarray(values[:1]) for name, values in data.items()}
    return module.init(key, rows)["params"]


def assert_layers(params, layers):
    for name, layer in layers.items():
        found = np.asarray(params[name]["kernel"]).T
        np.testing.assert_allclose(found, layer.weight.detach(), atol=1e-5)
        found = np.asarray(params[name]["bias"])
        np.testing.assert_allclose(found, layer.bias.detach(), atol=1e-5)


def no_dropout(monkeypatch):
    """PyTorch and JAX do not draw alike: dropout is compared without its draws."""
    monkeypatch.setattr("flax.linen.Dropout", lambda *_, **__: lambda x: x)


def test_unifd_is_pytorchs(part, config):
    config.train.epochs, config.seed = 1, 3
    c = published("unifd", config)
    assert (c.train.learning_rate, c.train.weight_decay) == (1e-4, 0)
    module = methods.get("unifd")
    state = module.fit([part], c)
    data, held = _network.held_out(_network.joined([part], module.inputs))
    assert len(held["labels"]) == 8 and held["labels"].mean() == 0.5
    layer = torch_linear(start_of(module.Network(), data, 3)["output"])
    spread = np.std(module.fit_seeds([part], c, [1])[0]["params"]["output"]["kernel"])
    assert 0.01 < spread < 0.03, "it starts at N(0, 0.02)"
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-4, weight_decay=0)
    order = first_epoch(3, len(data["labels"]))
    for i in range(0, len(order), 32):
        x, y = (
            torch.tensor(data[n][order[i : i + 32]]) for n in ("image_emb", "labels")
        )
        loss = tnn.functional.binary_cross_entropy_with_logits(
            layer(x)[:, 0], y.float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_layers(state["params"], {"output": layer})
    expected = torch.sigmoid(layer(torch.tensor(part.image_emb)))[:, 0].detach()
    np.testing.assert_allclose(module.score(state, part), expected, atol=1e-6)


def test_de_fake_is_pytorchs(part, config, monkeypatch):
    no_dropout(monkeypatch)
    config.train.epochs = 1
    c = published("de_fake", config)
    module = methods.get("de_fake")
    state = module.fit([part], c)
    data = _network.joined([part], module.inputs)
    start = start_of(module.Network(), data)
    first, second, output = (
        torch_linear(start[name]) for name in ("first", "second", "output")
    )
    assert first.weight.shape == (512, 2 * WIDTH) and second.weight.shape == (256, 512)
    net = tnn.Sequential(first, tnn.ReLU(), second, tnn.ReLU(), output)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-4)
    order = first_epoch(0, 80)
    for i in range(0, 80, 32):
        x, y = (torch.tensor(data[n][order[i : i + 32]]) for n in ("pair", "labels"))
        optimizer.zero_grad()
        tnn.functional.cross_entropy(net(x), y.long()).backward()
        optimizer.step()
    assert_layers(state["params"], {"first": first, "second": second, "output": output})
    expected = torch.softmax(net(torch.tensor(data["pair"])), 1)[:, 1].detach()
    np.testing.assert_allclose(module.score(state, part), expected, atol=1e-5)


@pytest.mark.slow
def test_vib_net_is_pytorchs_distribution(part, config):
    """The network at test time, the bottleneck's KL, and the sweep of beta."""
    module = methods.get("vib_net")
    config.train.epochs = 3
    (state,) = module.fit_seeds([part], published("vib_net", config), [0])
    p = state["params"]
    layers = {name: torch_linear(p[name]) for name in p}
    h = layers["second"](layers["first"](torch.tensor(part.image_emb)).relu()).relu()
    mu, s = layers["third"](h).chunk(2, 1)
    logits = layers["output"](mu)[:, 0]
    assert mu.shape[1] == 256
    found = module.score(state, part)
    np.testing.assert_allclose(found, torch.sigmoid(logits).detach(), atol=1e-6)
    spread = tnn.functional.softplus(s - 5)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mu, spread), normal(0.0, 1.0))
    kl = vib_net.bottleneck(*(jnp.asarray(v.detach().numpy()) for v in (mu, spread)))
    np.testing.assert_allclose(kl, expected.sum(1).detach(), rtol=1e-4)
    assert (
        state["beta"].item() == module.BETAS[int(np.argmin(state["held_out_errors"]))]
    )
    assert len(set(state["held_out_errors"])) == 3, "beta makes a difference"


def test_infofd_is_pytorchs(part, config, monkeypatch):
    """Two epochs with the draws fixed: the shift by a table, u = 1/2."""
    config.train.epochs = 2
    c = published("infofd", config)
    assert c.train.learning_rate == 0.25
    token = part.outputs["block_tokens"][:, 2].astype(np.float32)  # after 3 of 6
    both = lambda p: {"class_token": token, "text_emb": p.text_emb}  # noqa: E731
    data = _network.joined([part], both)
    params_key, projection_key = jax.random.split(
        jax.random.fold_in(jax.random.key(0), 0)
    )
    rows = {"class_token": jnp.asarray(data["class_token"][:1])}
    start = infofd.Network().init(params_key, rows)["params"]
    xavier = jax.nn.initializers.xavier_uniform()
    projection = torch.tensor(np.array(xavier(projection_key, (WIDTH, 32))))
    layers = {name: torch_linear(start[name]) for name in ("mu", "sigma", "output")}
    norm = tnn.BatchNorm1d(WIDTH)
    parameters = [w for m in (*layers.values(), norm) for w in m.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.25)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, 2, power=0.8)
    drawn = np.random.default_rng(1).normal(size=(2, 32, WIDTH)).astype(np.float32)
    memory = None
    for epoch in (1, 2):
        key = jax.random.fold_in(jax.random.key(0), epoch)
        order = np.asarray(jax.random.permutation(key, 80))
        for i in (0, 32):  # the last 16 are dropped
            index = order[i : i + 32]
            x, t = (torch.tensor(data[n][index]) for n in ("class_token", "text_emb"))
            y = torch.tensor(data["labels"][index])
            # A normal around 0.4 n with a deviation of 0.5 u, of fakes only.
            shift = torch.tensor(drawn[0] * 0.4 + drawn[1] * 0.5 * 0.25)
            shift[y == 0] = 0
            x = tnn.functional.normalize(x, dim=0) + shift
            x, t = norm(x), norm(t).detach() @ projection
            mu, s = layers["mu"](x), layers["sigma"](x)
            z = mu + torch.exp(s / 10) * 0.5
            sums = torch.stack([t[y == k].sum(0) for k in (0, 1)])
            counts = torch.tensor([[(y == k).sum()] for k in (0, 1)])
            if memory is None:
                memory = sums / counts
            else:
                memory = (memory * 4096 + sums) / (4096 + counts)
            means = torch.stack([z[y == k].mean(0) for k in (0, 1)])
            loss = 0.15 * bce(layers["output"](mu)[:, 0], y.float())
            loss = loss + tnn.functional.mse_loss(means, memory)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    fixed = {(32, 32): 0.5, (32, WIDTH): 0.25}
    uniform, normal = jax.random.uniform, jax.random.normal
    monkeypatch.setattr(
        jax.random,
        "uniform",
        lambda key, shape=(), *a, **k: (
            jnp.full(shape, fixed[shape])
            if shape in fixed
            else uniform(key, shape, *a, **k)
        ),
    )
    monkeypatch.setattr(
        jax.random,
        "normal",
        lambda key, shape=(), *a, **k: (
            jnp.asarray(drawn) if shape == drawn.shape else normal(key, shape, *a, **k)
        ),
    )
    state = methods.get("infofd").fit([part], c)
    assert (state["block"], state["blocks"]) == (3, 6)
    assert_layers(state["params"], layers)
    scale = state["params"]["norm"]["scale"]
    np.testing.assert_allclose(scale, norm.weight.detach(), atol=1e-5)
    expected = torch.sigmoid(layers["output"](layers["mu"](torch.tensor(token))))
    found = methods.get("infofd").score(state, part)
    np.testing.assert_allclose(found, expected[:, 0].detach(), atol=1e-5)


def test_infofd_shifts_the_fakes_of_every_batch(part):
    """Two draws give two losses, whatever the draws are."""
    rows = {"class_token": jnp.asarray(part.outputs["block_tokens"][:32, 2])}
    rows = {n: v.astype(jnp.float32) for n, v in rows.items()}
    params = infofd.Network().init(jax.random.key(0), rows)["params"]
    params["sigma"] = jax.tree.map(lambda x: x - 1e4, params["sigma"])  # no noise
    variables = {
        "params": params,
        "projection": jnp.ones((WIDTH, 32)),
        "memory": jnp.ones((2, 32)),
    }
    batch = rows | {"text_emb": jnp.asarray(part.text_emb[:32])}
    batch |= {"labels": jnp.asarray(part.labels[:32])}
    found = {
        float(infofd.loss(variables, batch, jnp.ones(32), jax.random.key(i))[0])
        for i in range(12)
    }
    assert len(found) == 12


def supervised_contrast(z, labels):
    """Khosla et al. (2020), Eq. 2, row by row."""
    z = tnn.functional.normalize(z)
    losses = []
    for i in range(len(z)):
        likeness = z @ z[i] / 0.07
        others = [a for a in range(len(z)) if a != i]
        total = torch.logsumexp(likeness[others], 0)
        own = [likeness[p] - total for p in others if labels[p] == labels[i]]
        losses.append(-torch.stack(own).mean() if own else total * 0)
    return torch.stack(losses).mean()


def test_rine_is_pytorchs(part, config, monkeypatch):
    """Three epochs of two batches and a short one, the learning rate falling."""
    no_dropout(monkeypatch)
    monkeypatch.setattr(rine, "FALLS", (2, 3))
    config.train.epochs = 3
    c = published("rine", config)
    assert (c.train.learning_rate, c.train.batch_size) == (1e-3, 32)
    assert published("rine", config_lib.default()).train.epochs == 1
    state = rine.fit([part], c)
    data = _network.joined([part], rine.inputs)
    start = start_of(rine.Network(), data)
    layers = {name: torch_linear(own) for name, own in start.items() if "i" != name[0]}
    alpha = torch.tensor(np.array(start["importance"]["alpha"]), requires_grad=True)
    assert alpha.shape == (1, BLOCKS, 128) and 0.9 < alpha.std() < 1.1
    assert len(layers) == 11 and layers["first0"].weight.shape == (128, WIDTH)

    def net(x):
        for i in range(4):
            x = layers[f"first{i}"](x).relu()
        x = (torch.softmax(alpha, 1) * x).sum(1)
        for i in range(4):
            x = layers[f"second{i}"](x).relu()
        h = layers["head1"](layers["head0"](x).relu()).relu()
        return layers["output"](h)[:, 0], x

    parameters = [w for m in layers.values() for w in m.parameters()]
    optimizer = torch.optim.Adam([alpha, *parameters], lr=1e-3)
    for epoch in (1, 2, 3):
        optimizer.param_groups[0]["lr"] = 1e-3 / 10 ** (epoch - 1)
        key = jax.random.fold_in(jax.random.key(0), epoch)
        order = np.asarray(jax.random.permutation(key, 80))
        for i in range(0, 80, 32):  # the last one has 16
            index = order[i : i + 32]
            x = torch.tensor(data["class_tokens"][index].astype(np.float32))
            y = torch.tensor(data["labels"][index])
            logits, z = net(x)
            loss = bce(logits, y.float(), reduction="sum")
            loss = loss + 0.2 * supervised_contrast(z, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert_layers(state["params"], layers)
    found = state["params"]["importance"]["alpha"]
    np.testing.assert_allclose(found, alpha.detach(), atol=1e-5)
    tokens = torch.tensor(part.outputs["class_tokens"].astype(np.float32))
    expected = torch.sigmoid(net(tokens)[0]).detach()
    np.testing.assert_allclose(rine.score(state, part), expected, atol=1e-5)


def test_the_contrast_counts_rows_with_weight_only():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(7, 5)).astype(np.float32)
    labels = np.array([0, 1, 1, 0, 1, 0, 1])
    found = rine.contrast(z, jnp.asarray(labels), jnp.array([1.0] * 5 + [0, 0]))
    expected = supervised_contrast(torch.tensor(z[:5]), labels[:5])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    alone = np.array([0, 1, 1, 1, 1])  # one row has no other of its label
    found = rine.contrast(z[:5], jnp.asarray(alone), jnp.ones(5))
    expected = supervised_contrast(torch.tensor(z[:5]), alone)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    single = rine.contrast(z[:2], jnp.array([0, 1]), jnp.array([1.0, 0.0]))
    assert single == 0, "a batch of one image"
    grad = jax.grad(lambda z: rine.contrast(z, jnp.array([0, 1]), jnp.array([1.0, 0])))
    assert np.isfinite(grad(jnp.asarray(z[:2]))).all()


def test_infofd_needs_a_whole_batch(part, config):
    config.train.batch_size = 128
    c = published("infofd", config)
    assert c.train.batch_size == 512, "128 is the package's default, not a choice"
    with pytest.raises(ValueError, match="80 training images.*one batch of 512"):
        methods.get("infofd").fit([part], c)


@pytest.mark.parametrize("k", [1, 3])
def test_nearest_neighbours_are_scikit_learns(part, config, k):
    from sklearn.neighbors import NearestNeighbors

    method = methods.get(f"item_jax.methods.nearest:k{k}")
    index = np.arange(60)
    state = method.fit([part.take(index)], config)
    rest = part.take(np.arange(60, 80))
    distance = {}
    for label in (0, 1):
        bank = part.image_emb[:60][part.labels[:60] == label]
        near = NearestNeighbors(n_neighbors=k, metric="cosine").fit(bank)
        distance[label] = near.kneighbors(rest.image_emb)[0].mean(1)
    p = method.score(state, rest)
    np.testing.assert_allclose(p, (distance[0] - distance[1] + 2) / 4, atol=1e-6)
    np.testing.assert_array_equal(p > 0.5, distance[1] < distance[0])
    with pytest.raises(ValueError, match="n of at least k = 9"):
        nearest.k9.fit([part.take(np.arange(10))], config)


@pytest.mark.slow
def test_the_flow_is_a_density(part, config):
    """Its log-determinant is that of its Jacobian, and it learns where reals are."""
    config.train.epochs, config.train.learning_rate = 60, 1e-3
    state = clip_flow.fit([part], published("clip_flow", config))
    params, x = state["params"], np.float32([0.3, -1.2, 0.5, 0.9] * 4)

    def flow(row):
        z, total = clip_flow.Flow().apply({"params": params}, {"x": row[None]})
        return z[0], total[0]

    jacobian = np.asarray(jax.jacobian(lambda row: flow(row)[0])(x), np.float64)
    z, total = flow(x)
    assert abs(total) > 0.01, "it is not the identity"
    np.testing.assert_allclose(total, np.linalg.slogdet(jacobian)[1], atol=1e-4)
    gauss = -0.5 * np.sum(np.asarray(z) ** 2) - 8 * np.log(2 * np.pi)
    nats = clip_flow.unlikelihood(params, x[None])[0]
    np.testing.assert_allclose(nats, -(gauss + total), rtol=1e-4)
    p = clip_flow.score(state, part)
    real, fake = p[part.labels == 0], p[part.labels == 1]
    assert (real > 0.5).mean() == 0.05 and (fake > 0.5).mean() > 0.2
    other = dataclasses.replace(part, image_emb=part.image_emb.copy())
    other.image_emb[1::2] = 5
    again = clip_flow.fit([other], published("clip_flow", config))
    np.testing.assert_array_equal(clip_flow.score(again, part), p), "fakes are not used"


# ------------------------------------------------------------------ published settings


def test_published_settings_stand_unless_overridden():
    c = config_lib.default()
    module = methods.get("de_fake")
    got = train.adapted(module, c).train
    assert (got.epochs, got.batch_size, got.learning_rate) == (50, 32, 3e-4)
    c.train.batch_size = 64
    assert train.adapted(module, c).train.batch_size == 64
    c.train.batch_size = 128  # the package's default, and meant
    assert train.adapted(module, c, ["train.batch_size"]).train.batch_size == 128
    train.refuse_unused("de_fake", ["train.batch_size", "seed", "train.seeds"])
    with pytest.raises(ValueError, match="does not use 'train.weight_decay'"):
        train.refuse_unused("de_fake", ["train.weight_decay"])


def test_early_stopping_is_the_authors_rule(part):
    """Against CNNDetection's rule written as a loop, on a scripted accuracy."""
    script = [0.5, 0.6, 0.6005, 0.6, 0.7, *[0.7] * 5, 0.7, 0.7015, *[0.7] * 4, 0.9]
    script += [0.9] * 30

    def judge(accuracies, rate=1e-4):
        rates, best, waited, least = [], None, 0, 0.001
        for accuracy in accuracies:
            rates.append(rate)
            if best is None or accuracy >= best + least:
                best, waited = accuracy, 0
                continue
            waited += 1
            if waited >= 5:
                rate /= 10
                if rate < 1e-6:
                    break
                best, waited, least = None, 0, 0.002
        return rates

    import optax

    from item_jax.early_stopping import EarlyStopping

    data = {"x": part.image_emb, "labels": part.labels}
    recipe = training_loop.Recipe(
        facts={},
        init=lambda key, data: {"params": jnp.zeros(()), "epoch": jnp.zeros(())},
        # The gradient is -1 and SGD of 1e-4 adds the learning rate to the parameter.
        loss=lambda v, batch, w, key: (-v["params"], {"epoch": v["epoch"] + 1}),
        optimizer=optax.sgd(1e-4),
        epochs=100,
        batch_size=80,
        stopping=EarlyStopping(
            lambda v, held: jnp.asarray(script)[v["epoch"].astype(int) - 1], 1e-4
        ),
    )
    seen = []
    (kept,) = training_loop.run(
        recipe,
        data,
        seeds=[0],
        held_out=data,
        on_epoch=lambda epoch, losses: seen.append(-float(losses[0])),
    )
    expected = judge(script)
    assert len(seen) == len(expected) and len(set(expected)) == 3
    np.testing.assert_allclose(np.diff(seen), expected[:-1], rtol=1e-3)
    assert kept["epoch"] <= len(seen) - 5, "the last improvement is kept"


@pytest.mark.slow
def test_a_stopped_rival_resumes_exactly(part, config, tmp_path):
    """With dropout, noise, early stopping and several seeds."""

    class Stop(Exception):
        pass

    config.train.epochs, config.train.checkpoint_every = 6, 2

    def stop(epoch, losses):
        if epoch == 5:
            raise Stop

    for name in ("unifd", "vib_net", "infofd", "rine"):
        module, c = methods.get(name), published(name, config)
        whole = module.fit_seeds([part], c, [0, 1])
        with pytest.raises(Stop):
            module.fit_seeds(
                [part], c, [0, 1], checkpoints=tmp_path / name, on_epoch=stop
            )
        epochs = []
        resumed = module.fit_seeds(
            [part],
            c,
            [0, 1],
            checkpoints=tmp_path / name,
            on_epoch=lambda epoch, _, epochs=epochs: epochs.append(epoch),
        )
        assert epochs[0] == 5
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed)):
            np.testing.assert_array_equal(a, b)


def test_a_state_that_does_not_fit_is_refused(part, config):
    module = methods.get("unifd")
    state = module.fit([part], published("unifd", config))
    with pytest.raises(ValueError, match="its tensors are .*; its settings describe"):
        module.check(state | {"inputs": {"image_emb": [WIDTH + 1]}})
    with pytest.raises(ValueError, match="inputs.image_emb is '16'"):
        module.check(state | {"inputs": {"image_emb": "16"}})
    wide = dataclasses.replace(part, image_emb=np.zeros((80, 8), np.float32))
    with pytest.raises(ValueError, match=r"the network takes .*\[16\].*found .*\[8\]"):
        module.score(state, wide)
