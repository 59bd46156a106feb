"""Rivals made of weights that PyTorch saved: the same scores as in PyTorch.

Each network is written here from its authors' description, filled at random, saved as
their training code saves it, and scored by both.
"""

import collections

import numpy as np
import pytest
import torch
from torch import nn

from item_jax import config as config_lib
from item_jax import methods, published
from item_jax.__main__ import main
from item_jax.embed import embed_records
from item_jax.embeddings import Embeddings
from item_jax.fitted import FittedMethod

WIDTH, BLOCKS, INSIDE = 16, 24, 20


@pytest.fixture(scope="module")
def part():
    """Nine images of a tower of 24 blocks."""
    rng = np.random.default_rng(0)
    rows = [{"key": str(i), "label": "real", "generator": ""} for i in range(9)]
    image, text = (rng.normal(size=(9, WIDTH)).astype(np.float32) for _ in range(2))
    outputs = {
        "class_tokens": rng.normal(size=(9, BLOCKS, INSIDE)).astype(np.float16),
        "block_tokens": rng.normal(size=(9, BLOCKS, WIDTH)).astype(np.float16),
    }
    none = np.zeros((0, WIDTH), np.float32)
    offsets = np.zeros(10, np.int64)
    return Embeddings(rows, image, text, none, none, offsets, outputs=outputs)


def tensor(values):
    return torch.tensor(np.asarray(values, np.float32))


# ------------------------------------------------------------------ the authors' side


class UniFD(nn.Module):
    """The whole detector, with a tower beside its layer."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.fc = nn.Linear(WIDTH, 1)

    def forward(self, part):
        return self.fc(tensor(part.image_emb))[:, 0]


class VibNet(nn.Module):
    """1024, 1024 and 512, of which half is the mean; z is the mean."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(4, 4)
        self.fc_1, self.fc_2 = nn.Linear(WIDTH, 1024), nn.Linear(1024, 1024)
        self.fc_3, self.decode = nn.Linear(1024, 512), nn.Linear(256, 1)

    def forward(self, part):
        x = torch.relu(self.fc_1(tensor(part.image_emb)))
        mean, _ = self.fc_3(torch.relu(self.fc_2(x))).chunk(2, 1)
        return self.decode(mean)[:, 0]


class DeFake(nn.Module):
    """512, 256 and two logits: P(fake) is the softmax's second."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(2 * WIDTH, 512), nn.Linear(512, 256)
        self.fc3 = nn.Linear(256, 2)

    def forward(self, part):
        x = torch.cat([tensor(part.image_emb), tensor(part.text_emb)], 1)
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return torch.logit(torch.softmax(self.fc3(x), 1)[:, 1])


class InfoFD(nn.Module):
    """The mean of the bottleneck of the token after block 12 of 24."""

    def __init__(self):
        super().__init__()
        self.mu_encoder, self.sigma_encoder = (nn.Linear(WIDTH, 32) for _ in range(2))
        self.batchnorm = nn.BatchNorm1d(WIDTH)
        self.proj = nn.Linear(WIDTH, 32, bias=False)
        self.decoder = nn.Linear(32, 1)

    def forward(self, part):
        return self.decoder(self.mu_encoder(tensor(part.outputs["block_tokens"])))[
            :, 11, 0
        ]


class Rine(nn.Module):
    """Two projections, the sum over blocks between them, and a head."""

    def __init__(self, depth=4, width=128):
        super().__init__()

        def block(inside):
            return [nn.Linear(inside, width), nn.ReLU(), nn.Dropout()]

        def projection(inside):
            first = [nn.Dropout(), *block(inside)]
            return nn.Sequential(
                *first, *[m for _ in range(depth - 1) for m in block(width)]
            )

        self.alpha = nn.Parameter(torch.randn(1, BLOCKS, width))
        self.proj1, self.proj2 = projection(INSIDE), projection(width)
        self.head = nn.Sequential(*block(width), *block(width), nn.Linear(width, 1))

    def vectors(self, tokens):
        g = self.proj1(tokens)
        return self.proj2((torch.softmax(self.alpha, 1) * g).sum(1))

    def forward(self, part):
        return self.head(self.vectors(tensor(part.outputs["class_tokens"])))[:, 0]


def made(network, seed=0):
    torch.manual_seed(seed)
    net = network().eval()
    with torch.no_grad():
        for name, own in net.named_parameters():
            if name.startswith("fc_") or name.startswith(("proj", "head")):
                own.mul_(2)  # a signal that reaches the end
    return net


def as_trained(state):
    return {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 1}


def parallel(state):
    return collections.OrderedDict(("module." + k, v) for k, v in state.items())


def only_the_layer(state):
    return {k.removeprefix("fc."): v for k, v in state.items() if k.startswith("fc.")}


CASES = [
    ("unifd", UniFD, only_the_layer, ()),
    ("unifd", UniFD, as_trained, ("took 'model'", "left 4 tensors model.*")),
    ("unifd", UniFD, lambda s: as_trained(parallel(s)), ("the prefix 'module.'",)),
    ("vib_net", VibNet, as_trained, ("left 2 tensors model.*",)),
    ("de_fake", DeFake, dict, ()),
    ("de_fake", DeFake, lambda s: {"state_dict": parallel(s)}, ("took 'state_dict'",)),
    ("infofd", InfoFD, dict, ()),
    ("infofd", InfoFD, as_trained, ("left 'optimizer', 'epoch'",)),
    ("rine", Rine, dict, ()),
    ("rine", lambda: Rine(2, 24), lambda s: {"state_dict": s}, ("took",)),
]


@pytest.mark.parametrize(("name", "network", "wrapped", "notes"), CASES)
def test_scores_are_pytorchs(name, network, wrapped, notes, part, tmp_path):
    net = made(network)
    torch.save(wrapped(net.state_dict()), tmp_path / "w.pth")
    module = methods.get(name)
    found = published.tensors(tmp_path / "w.pth", skip=getattr(module, "SKIPPED", ()))
    assert all(any(note in own for own in found.notes) for note in notes), found.notes
    state = module.from_weights(found.tensors)
    module.check(state)
    with torch.no_grad():
        expected = torch.sigmoid(net(part))
    assert expected.std() > 1e-3, "the images differ"
    np.testing.assert_allclose(module.score(state, part), expected, atol=1e-5)


@pytest.mark.parametrize(("name", "network"), [case[:2] for case in CASES[1:-1:2]])
def test_what_does_not_fit_is_named(name, network, part):
    module = methods.get(name)
    state = {k: v.numpy() for k, v in made(network).state_dict().items()}
    state = {k: v for k, v in state.items() if not k.startswith("model.")}
    name = [k for k in state if k.endswith("bias") and "batchnorm" not in k][-1]
    misspelt = {k.replace(name, name + "s"): v for k, v in state.items()}
    with pytest.raises(ValueError, match=f"missing: {name} .nearest: {name}s"):
        module.from_weights(misspelt)
    with pytest.raises(ValueError, match="1 tensor is of no layer of .*: extra.weight"):
        module.from_weights({**state, "extra.weight": np.zeros(3, np.float32)})
    wide = {**state, name: np.zeros(7, np.float32)}
    with pytest.raises(ValueError, match=rf"{name} has shape \[7\], expected \[.*\]"):
        module.from_weights(wide)
    whole = {**state, name: state[name].astype(np.int64)}
    with pytest.raises(ValueError, match=f"{name} is of int64, not of floating"):
        module.from_weights(whole)
    with pytest.raises(ValueError, match="missing"):
        module.from_weights({})


def test_rines_alpha_and_sizes_are_checked():
    rine = methods.get("rine")
    state = {k: v.numpy() for k, v in made(Rine).state_dict().items()}
    with pytest.raises(ValueError, match=r"alpha has shape \[24, 128\]"):
        rine.from_weights({**state, "alpha": state["alpha"][0]})
    with pytest.raises(
        ValueError, match=r"head.0.bias has shape \[128\], expected \[64\]"
    ):
        rine.from_weights({**state, "alpha": state["alpha"][..., :64]})
    good = rine.from_weights(state)
    for sizes in ({"depth": 0, "width": 128}, {"depth": 4, "width": 10**9}):
        with pytest.raises(ValueError, match="not in 1 to"):
            rine.check(good | {"network": sizes})
    with pytest.raises(ValueError, match="its tensors are"):
        rine.check(good | {"network": {"depth": 3, "width": 128}})


def test_infofds_block_belongs_to_its_tower(part):
    import dataclasses

    infofd = methods.get("infofd")
    state = infofd.from_weights(
        {k: v.numpy() for k, v in made(InfoFD).state_dict().items()}
    )
    assert (state["block"], state["blocks"]) == (12, 24)
    half = {"block_tokens": part.outputs["block_tokens"][:, :12]}
    other = dataclasses.replace(part, outputs=half)
    assert infofd.middle(other) == 6
    with pytest.raises(ValueError, match="after block 12 of 24; .* has 12 blocks"):
        infofd.score(state, other)
    with pytest.raises(ValueError, match="block 25 of 24"):
        infofd.check(state | {"block": 25})


def test_a_start_is_read_from_a_checkpoint_too(tmp_path):
    state = {"conv1.weight": torch.ones(2, 3)}
    torch.save(as_trained(parallel(state)), tmp_path / "w.pth")
    start = published.start("resnet50", tmp_path / "w.pth")
    assert list(start.tensors) == ["conv1.weight"] and "took 'model'" in start.notes
    assert not published.accepts("cosine") and published.accepts("rine")


def test_the_program_makes_a_method_of_them(photos, towers, tmp_path, capsys):
    """With the outputs in the cache; without them the command that makes them."""
    config = config_lib.default()
    root, records = photos
    plain, rich = tmp_path / "plain", tmp_path / "rich"
    embed_records(records[:6], towers, config, images=root, folder=plain / "embeddings")
    config.embed.outputs = ("class_tokens",)
    cache = embed_records(
        records[:6], towers, config, images=root, folder=rich / "embeddings"
    )
    blocks, inside = cache.embedding["outputs"]["class_tokens"]
    torch.manual_seed(0)
    net = Rine(2, 8).eval()
    net.alpha = nn.Parameter(torch.randn(1, blocks, 8))
    net.proj1[1] = nn.Linear(inside, 8)
    torch.save(as_trained(parallel(net.state_dict())), tmp_path / "rine.pth")
    command = ["train", "--method", "rine", "--weights", str(tmp_path / "rine.pth")]
    assert main([*command, "--workdir", str(plain)]) == 2
    assert "--outputs class_tokens" in capsys.readouterr().err
    assert main([*command, "--workdir", str(rich)]) == 0
    out = capsys.readouterr().out
    assert "took 'model'" in out and "without the prefix 'module.'" in out
    assert "images that are not recorded" in out
    fitted = FittedMethod.load(rich / "methods/rine")
    notes = fitted.config["training"]["settings"]["weights_notes"]
    assert "took 'model'" in notes
    for part in cache.select():
        with torch.no_grad():
            expected = torch.sigmoid(net(part))
        np.testing.assert_allclose(fitted.score(part), expected, atol=1e-5)
