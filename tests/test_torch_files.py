"""Reading what torch.save wrote: equal to torch.load, and nothing hostile runs."""

import argparse
import collections
import io
import os
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from item_jax import torch_files

TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "transposed": torch.arange(12, dtype=torch.float64).reshape(3, 4).T,
    "view": torch.arange(20, dtype=torch.int64)[3:17:2],
    "half": torch.tensor([1.5, -2.25, 6e-8], dtype=torch.float16),
    "bfloat16": torch.tensor([1.5, -3.0], dtype=torch.bfloat16),
    "small": torch.tensor([[1, -2]], dtype=torch.int8),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "short": torch.tensor([-7], dtype=torch.int16),
    "int": torch.tensor([2**31 - 1], dtype=torch.int32),
    "true": torch.tensor([True, False]),
    "scalar": torch.tensor(3.25),
    "nothing": torch.zeros(0, 5),
    "not_finite": torch.tensor([float("nan"), float("inf")]),
}


def assert_equals_torch(path):
    expected = torch.load(path, weights_only=True, map_location="cpu")
    saved_file = torch_files.read(path)
    found, notes = saved_file.tensors, saved_file.notes
    assert list(found) == list(expected) and notes == []
    for name, tensor in expected.items():
        bits = tensor.contiguous()
        if tensor.dtype == torch.bfloat16:
            bits = bits.view(torch.int16)
        bits = bits.numpy()
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        assert found[name].tobytes() == bits.tobytes()


def test_equals_torch_bit_for_bit(tmp_path):
    torch.save(TENSORS, tmp_path / "dict.pth")
    torch.save(collections.OrderedDict(TENSORS), tmp_path / "ordered.pth")
    layer = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))
    torch.save(layer.state_dict(), tmp_path / "state.pth")  # with _metadata: BUILD
    both = torch.randn(50)
    torch.save({"whole": both, "part": both[7:20]}, tmp_path / "shared.pth")
    for path in tmp_path.iterdir():
        assert_equals_torch(path)


# ----------------------------------------------------------- what training code saves


def saved(path, value):
    torch.save(value, path)
    return path


def trained():
    """A layer, and an optimizer of it that has made a step: int keys and lists."""
    layer = torch.nn.Linear(5, 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    layer(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    return layer, optimizer


LAYER, OPTIMIZER = trained()
STATE = LAYER.state_dict()


def prefixed(prefix, state=STATE):
    return collections.OrderedDict((prefix + k, v) for k, v in state.items())


def fake_module(monkeypatch, name, *classes):
    """Classes of a package that is not here, as the pickler finds them."""
    for i in range(1, name.count(".") + 2):
        path = ".".join(name.split(".")[:i])
        monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    for cls in classes:
        cls.__module__, cls.__qualname__ = name, cls.__name__
        setattr(sys.modules[name], cls.__name__, cls)


def lightning(monkeypatch):
    """The checkpoint of a LightningModule, with the objects that it has beside."""

    class AttributeDict(dict):
        pass

    class ModelCheckpoint:
        pass

    fake_module(monkeypatch, "pytorch_lightning.utilities.parsing", AttributeDict)
    fake_module(monkeypatch, "pytorch_lightning.callbacks", ModelCheckpoint)
    hyper = AttributeDict(lr=1e-3, betas=(0.9, 0.99), names=[], path=pathlib.Path("x"))
    hyper.extra = 1
    best = {"best_model_score": torch.tensor(0.9), "best_k_models": {}, "dirpath": None}
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": prefixed("model."),
        "loops": {"fit_loop": {"state_dict": {}, "progress": {"ready": 1}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'x'}": best, ModelCheckpoint: best},
        "optimizer_states": [OPTIMIZER.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper,
    }


def others():
    """Values that training code leaves beside the tensors."""
    counted = collections.defaultdict(list)
    counted["loss"].append(0.5)
    return {
        "args": argparse.Namespace(lr=1e-3, gpus=[0, 1], name="a"),
        "best": np.float64(0.93),
        "curve": np.arange(3.0),
        "history": counted,
        "counts": collections.Counter("abc"),
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "seen": {1, 2},
        "nothing": None,
        "pair": (1, 2.5, "x"),
        "step": torch.tensor(7),
        "metrics": {"acc": torch.tensor(0.9)},
        0: 1.5,
        (1, 2): True,
    }


@pytest.mark.parametrize(
    ("wrapped", "words"),
    [
        (lambda m: STATE, []),
        (  # CNNDetection, UniFD, NPR, VIB-Net
            lambda m: {
                "model": STATE,
                "optimizer": OPTIMIZER.state_dict(),
                "total_steps": 10,
            },
            ["took 'model'", "left 'optimizer', 'total_steps'"],
        ),
        (
            lambda m: {
                "epoch": 3,
                "model_state_dict": prefixed("module."),
                "optimizer_state_dict": OPTIMIZER.state_dict(),
                "loss": torch.tensor(0.5),
            },
            ["took 'model_state_dict'", "left 'epoch'", "without the prefix 'module.'"],
        ),
        (lambda m: {"state_dict": prefixed("_orig_mod.module."), **others()}, ["took"]),
        (lightning, ["took 'state_dict'", "without the prefix 'model.'"]),
        (lambda m: {"detector": STATE, "optimizer": OPTIMIZER.state_dict()}, ["took"]),
        (lambda m: {"net": {"state_dict": STATE}, "model_ema": STATE}, ["'model_ema'"]),
        (lambda m: {**STATE, "epoch": 3, "names": []}, ["left 'epoch', 'names'"]),
        (lambda m: dict(LAYER.named_parameters()), []),  # torch.nn.Parameter
    ],
    ids="bare cnndet tutorial compiled lightning own ema beside parameters".split(),
)
def test_what_training_code_saves_is_read(tmp_path, monkeypatch, wrapped, words):
    path = saved(tmp_path / "x.ckpt", wrapped(monkeypatch))
    saved_file = torch_files.read(path)
    found, notes = saved_file.tensors, saved_file.notes
    assert list(found) == ["weight", "bias"]
    for name, value in STATE.items():
        np.testing.assert_array_equal(found[name], value)
    assert all(any(word in note for note in notes) for word in words), notes
    assert bool(words) == bool(notes)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (OPTIMIZER.state_dict(), "the state of an optimizer and no weights"),
        ({"a": STATE, "b": STATE}, r"2 dictionaries of tensors: 'a', 'b'.*\)\['a'\]"),
        ({"epoch": 3, "names": []}, "no tensors by name: 'epoch' is 3, 'names' is a l"),
        ({}, "it is empty"),
        ([STATE, 3], "it holds a list of 2, not a dictionary of tensors"),
        ((STATE,), "it holds .a dictionary., not"),
        (torch.ones(3), "it holds a tensor, not"),
        ({0: torch.ones(2), 1: torch.ones(2)}, "no names: one is under 0, where a st"),
        (torch.nn.Linear(2, 1), "a whole module ..torch.nn.modules.linear.Linear"),
        ({"net": torch.nn.Sequential(torch.nn.ReLU())}, "a whole module"),
    ],
)
def test_what_is_no_state_is_named(tmp_path, value, words):
    path = saved(tmp_path / "x.pth", value)
    with pytest.raises(ValueError, match=f"x.pth: .*{words}") as refused:
        torch_files.read(path)
    assert "EMPTY_LIST" not in str(refused.value)


def test_other_files_are_named(tmp_path):
    good = archive(tmp_path / "good.pth", program())
    script = rewritten(good, tmp_path / "script.pth", **{"a/code/net.py": b""})
    with pytest.raises(ValueError, match="TorchScript program"):
        torch_files.read(script)
    torch.save(STATE, tmp_path / "four.pth", pickle_protocol=4)
    with pytest.raises(ValueError, match="protocol 4.*torch.load"):
        torch_files.read(tmp_path / "four.pth")


def test_skipped_tensors_are_not_read(tmp_path):
    state = {**prefixed("model."), **prefixed("fc.")}
    path = saved(tmp_path / "x.pth", {"model": state})
    saved_file = torch_files.read(path, skip=("model.",))
    found, notes = saved_file.tensors, saved_file.notes
    assert list(found) == ["fc.weight", "fc.bias"]
    assert "left 2 tensors model.*" in notes


def test_dictionaries_inside_each_other_end(tmp_path):
    """Cycles, and shared ones in many layers, are walked once."""
    cycle = {"a": None}
    cycle["a"] = cycle
    with pytest.raises(ValueError, match="no tensors by name"):
        torch_files.read(saved(tmp_path / "cycle.pth", cycle))
    for cycle in ({"model": None, "w": torch.ones(2)}, {"a": None, "w": STATE}):
        cycle["model" if "model" in cycle else "a"] = cycle
        with pytest.raises(ValueError, match="more than 4 dictionaries|2 dictionaries"):
            torch_files.read(saved(tmp_path / "cycle.pth", cycle))
    layer = {}
    for _ in range(30):
        layer = {str(i): layer for i in range(300)}
    with pytest.raises(ValueError, match="no tensors by name"):
        torch_files.read(saved(tmp_path / "many.pth", layer))


def rewritten(source, target, change=lambda name, data: data, **more):
    """A copy of an archive, with some of its entries changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
        for name, data in more.items():
            new.writestr(name, data)
    return target


def test_tensors_of_a_gpu_are_read(tmp_path):
    """As the authors' fc_weights.pth, whose storages lived on cuda:0."""
    state = collections.OrderedDict(weight=torch.randn(1, 768), bias=torch.randn(1))
    torch.save(state, tmp_path / "cpu.pth")

    def move(name, data):
        cpu = b"X\x03\x00\x00\x00cpu"  # BINUNICODE of three letters
        if name.endswith("data.pkl"):
            assert cpu in data
            data = data.replace(cpu, b"X\x06\x00\x00\x00cuda:0")
        return data

    path = rewritten(tmp_path / "cpu.pth", tmp_path / "cuda.pth", move)
    assert_equals_torch(path)
    assert torch_files.read(path).tensors["weight"].shape == (1, 768)


# ------------------------------------------------------------------------ hostile files


class Evil:
    def __init__(self, what):
        self.what = what

    def __reduce__(self):
        return self.what


class Attributes:
    """Pickled as an object whose attributes are set by BUILD."""

    def __reduce__(self):
        return (list, (), {"x": 1})


def program(*, size=(2,), stride=(1,), offset=0, kind="FloatStorage", count=4, key="0"):
    """The pickle of {"w": a tensor}, of numbers that torch would not write."""

    class Persistent(tuple):
        pass

    class Name:
        def __init__(self, module, name):
            self.module, self.name = module, name

    storage = Persistent(("storage", Name("torch", kind), key, "cpu", count))
    buffer = io.BytesIO()

    class Pickler(pickle._Pickler):  # the one in Python, whose opcodes can be chosen
        def persistent_id(self, thing):
            return tuple(thing) if isinstance(thing, Persistent) else None

        def save(self, thing, save_persistent_id=True):
            if isinstance(thing, Name):
                line = f"{thing.module}\n{thing.name}\n".encode()
                self.write(pickle.GLOBAL + line)
                return
            super().save(thing, save_persistent_id)

    pickler = Pickler(buffer, protocol=2)
    pickler.write(pickle.PROTO + b"\x02" + pickle.EMPTY_DICT)
    pickler.save("w")
    pickler.save(Name("torch._utils", "_rebuild_tensor_v2"))
    pickler.save((storage, offset, size, stride, False, None))
    pickler.write(pickle.REDUCE + pickle.SETITEM + pickle.STOP)
    return buffer.getvalue()


def archive(path, pickled, data=b"\0" * 16, **options):
    with zipfile.ZipFile(path, "w", **options) as f:
        f.writestr("a/data.pkl", pickled)
        f.writestr("a/data/0", data)
    return path


def test_the_honest_program_is_read(tmp_path):
    data = np.arange(4, dtype=np.float32).tobytes()
    path = archive(tmp_path / "x.pth", program(size=(2, 1), stride=(2, 5)), data)
    np.testing.assert_array_equal(torch_files.read(path).tensors["w"], [[0], [2]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(size=(5,)), "reaches beyond its storage of 4"),
        (dict(size=(2,), stride=(4,)), "reaches beyond"),
        (dict(size=(1,), offset=4), "reaches beyond"),
        (dict(size=(10**30,), stride=(0,)), "bytes or more"),
        (dict(size=(2**40,), stride=(0,)), "bytes or more"),
        (dict(size=(2,), stride=(-1,), offset=1), "with the numbers"),
        (dict(offset=-1), "with the numbers"),
        (dict(size=(-2,)), "with the numbers"),
        (dict(size=(True,)), "with the numbers"),
        (dict(size=(2.0,)), "with the numbers"),
        (dict(size="ab"), "with the numbers"),
        (dict(size=(2, 2), stride=(1,)), "has sizes"),
        (dict(size=(1,) * 33, stride=(1,) * 33), "has sizes"),
        (dict(size=(0, 2**62, 2**62), stride=(1, 1, 1)), "has sizes"),
        (dict(count=5), "has 16 bytes, not 5 numbers"),
        (dict(count=10**30), "has 16 bytes"),
        (dict(count=-4), "has the storage"),
        (dict(kind="QInt8Storage"), "names 'torch QInt8Storage'"),
        (dict(kind="BoolStorage", count=16), "neither 0 nor 1"),
        (dict(key="../../etc/passwd"), "is missing"),
        (dict(key=7), "has the storage"),
    ],
)
def test_numbers_that_lie_are_refused(tmp_path, options, words):
    path = archive(tmp_path / "x.pth", program(**options), b"\x02" * 16)
    with pytest.raises(ValueError, match=f"x.pth: .*{words}"):
        torch_files.read(path)


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (pickle.dumps(Evil((os.system, ("touch HACKED",))), 2), "may be hostile"),
        (pickle.dumps({"w": Evil((eval, ("1",)))}, 2), "may be hostile"),
        (pickle.dumps(Evil((getattr, ("x", "y"))), 2), "may be hostile"),
        (pickle.dumps(Attributes(), 2), "it holds an object of __builtin__.list"),
        (b"\x80\x02" + b"cbuiltins\nexec\n.", "names 'builtins exec'"),
        (b"\x80\x02(S'id'\nios\nsystem\n.", "the instruction STRING"),
        (b"\x80\x02(ios\nsystem\n.", "the instruction INST"),
        (b"\x80\x02ctorch FloatStorage\n\n.", "names|damaged"),
        (b"\x80\x02ctorch\nFloatStorage\n}b.", "sets attributes"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls torch FloatStorage"),
        (b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.", "calls collections"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "calls torch._utils"),
        (pickle.dumps({"w": 1}, 2), "no tensors by name: 'w' is 1"),
        (pickle.dumps({1: 1}, 2), "no tensors by name: 1 is 1"),
        (pickle.dumps([1], 2), "it holds a list of 1, not a dictionary of tensors"),
        (pickle.dumps(1, 2), "it holds 1"),
        (pickle.dumps({"w": 1}, 4), "protocol 4"),
        (pickle.dumps("x" * 99, 2)[:-20], "damaged|expected|pickle"),
        (b"\x80\x02}q\x00h\x00h\x00s.", "no tensors by name"),
        (b"\x80\x02h\x05.", "damaged: KeyError"),
        (b"\x80\x020.", "the instruction POP"),
        (b"\x80\x02u.", "damaged"),
        (b"\x80\x02F" + b"x" * 10**5 + b"\n.", "could not convert string to float"),
        (b"\x80\x02((.", "damaged"),
        (b"", "pickle|damaged"),
        (b"\x80\x02" + b")" + b"\x85" * 5000 + b".", "it holds"),
        (b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".", "more than 60 digits"),
    ],
)
def test_programs_that_do_more_are_refused(tmp_path, monkeypatch, pickled, words):
    monkeypatch.chdir(tmp_path)
    path = archive(tmp_path / "x.pth", pickled)
    with pytest.raises(ValueError, match=f"x.pth: .*({words})") as refused:
        torch_files.read(path)
    assert len(str(refused.value)) < 1000
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"], "nothing ran"


def test_the_same_name_twice_is_refused(tmp_path):
    own = program()[2:-1]  # {"w": tensor} without PROTO and STOP
    twice = own[1:].replace(pickle.EMPTY_DICT, b"", 1)
    path = archive(tmp_path / "x.pth", b"\x80\x02" + own + twice + b".")
    with pytest.raises(ValueError, match="it names 'w' twice|damaged"):
        torch_files.read(path)


def test_archives_that_lie_are_refused(tmp_path):
    good = archive(tmp_path / "good.pth", program())
    assert list(torch_files.read(good).tensors) == ["w"]

    def refused(path, words):
        with pytest.raises(ValueError, match=f"{path.name}: .*{words}"):
            torch_files.read(path)

    bomb = archive(
        tmp_path / "bomb.pth",
        program(count=2**22),
        bytes(2**24),
        compression=zipfile.ZIP_DEFLATED,
    )
    assert bomb.stat().st_size < 2**16
    refused(bomb, "compressed or encrypted")
    with pytest.warns(UserWarning, match="Duplicate name"):
        double = rewritten(good, tmp_path / "double.pth", **{"a/data/0": bytes(16)})
    refused(double, "two entries have the same name")
    refused(rewritten(good, tmp_path / "two.pth", **{"b/data.pkl": b""}), "2 entries")
    big = rewritten(good, tmp_path / "big.pth", **{"a/byteorder": b"big"})
    refused(big, "little-endian")
    empty = tmp_path / "empty.pth"
    with zipfile.ZipFile(empty, "w") as f:
        f.writestr("x", b"")
    refused(empty, "0 entries named")
    cut = tmp_path / "cut.pth"
    cut.write_bytes(good.read_bytes()[:60])
    refused(cut, "not a zip archive")
    damaged = bytearray(good.read_bytes())
    damaged[damaged.index(b"\x80\x02}") + 5] ^= 0xFF
    (tmp_path / "crc.pth").write_bytes(damaged)
    refused(tmp_path / "crc.pth", "")
    old = tmp_path / "old.pth"
    torch.save({"w": torch.zeros(2)}, old, _use_new_zipfile_serialization=False)
    refused(old, "not a zip archive as torch.save writes since")
    with pytest.raises(ValueError, match="no weights .*none.pth"):
        torch_files.read(tmp_path / "none.pth")


def test_many_copies_of_one_storage_are_refused(tmp_path):
    shared = torch.randn(10_000)
    torch.save({f"w{i}": shared for i in range(100)}, tmp_path / "many.pth")
    with pytest.raises(ValueError, match="bytes or more in a file of"):
        torch_files.read(tmp_path / "many.pth")
