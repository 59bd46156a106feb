"""What other tools read: TensorBoard's event files, Parquet."""

import csv
import json
import shutil
import struct

import pytest
from pyarrow import parquet

from item_jax import results
from item_jax.__main__ import main


def scalars(folder):
    """The scalars of the event files of a folder, {tag: {step: value}}.

    Read record by record (length, its checksum, an event, its checksum), as TensorBoard
    does.
    """
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


@pytest.fixture
def workdir(evaluated, tmp_path):
    return shutil.copytree(evaluated.path, tmp_path / "workdir")


@pytest.mark.slow
def test_losses_of_each_seed_are_scalars(workdir, tmp_path, capsys):
    events = tmp_path / "events"
    words = ["train", "--workdir", str(workdir), "--as", "mine"]
    words += ["--config.train.epochs=3", "--config.train.seeds=2"]
    assert main([*words, "--tensorboard", str(events)]) == 0
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    logged = [row for row in rows if row["method"] == "mine"]
    assert [row["epoch"] for row in logged] == [1, 2, 3]
    found = scalars(events)
    assert sorted(found) == ["loss/mine/seed-0", "loss/mine/seed-1"]
    for k, (_, values) in enumerate(sorted(found.items())):
        expected = {row["epoch"]: row["loss"][k] for row in logged}
        assert values == pytest.approx(expected, abs=1e-6)
    assert main(["train", "--workdir", str(workdir), "--method", "constant"]) == 0
    more = ["--method", "constant", "--force", "--tensorboard", str(events)]
    assert main(["train", "--workdir", str(workdir), *more]) == 2
    assert "trains no epochs" in capsys.readouterr().err


def test_scores_as_parquet_are_those_of_the_csv(workdir):
    path = results.write_parquet(workdir / "results")
    table = parquet.read_table(path)
    with open(path.with_suffix(".csv"), encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert table.column_names == list(rows[0])
    kinds = {f.name: str(f.type) for f in table.schema}
    assert kinds["key"] == kinds["caption"] == "string"
    assert kinds["p_fake"] == kinds["p_fake_cosine"] == "double"
    for row, own in zip(rows, table.to_pylist(), strict=True):
        for name, value in own.items():
            if value is None:
                assert row[name] == ""
            elif isinstance(value, str):
                assert value == row[name]
            else:
                assert value == float(row[name])


@pytest.mark.slow
def test_evaluate_writes_parquet_when_asked(workdir, capsys):
    words = ["evaluate", "--workdir", str(workdir), "--methods", "cosine"]
    assert main([*words, "--parquet"]) == 1
    assert "scores.parquet" in capsys.readouterr().out
    assert (workdir / "results" / "scores.parquet").is_file()
