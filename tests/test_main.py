"""The real program in a real process, as a person would use it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from item_jax import __main__ as door

ROOT = Path(__file__).parent.parent


def run(*words, status=0, cwd=None, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "item_jax", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's working folder and what it printed, from a fresh process."""
    workdir = tmp_path_factory.mktemp("demo") / "item-jax-demo"
    # One device, as a newcomer's laptop has.
    return workdir, run("demo", "--workdir", workdir, XLA_FLAGS="")


def test_demo_detects_the_seen_and_the_unseen_families(demo):
    workdir, text = demo
    results = json.loads((workdir / "results/results.json").read_text())
    assert results["counts"] == {"in": 900, "done": 900, "failed": 0}
    for name in ("vae", "gan", "flow"):
        figures = results["generators"][name]
        low, high = figures["interval_95"]["auc"]
        assert low > 0.6, f"{name} is not clearly above chance: {low:.3f}-{high:.3f}"
        # A caption alone must tell nothing: the world would be leaking.
        assert (
            abs(results["baselines"]["caption"]["generators"][name]["auc"] - 0.5) < 0.1
        )
    assert results["generators"]["vae"]["auc"] > 0.9
    assert results["head"]["training"]["generators"] == ["vae"]
    assert "vae*" in text and "macro average" in text and "toy world" in text


def test_the_readme_states_the_demos_figures(demo):
    """Its table is what the demo prints, within what another machine may change."""
    workdir, _ = demo
    results = json.loads((workdir / "results/results.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for name in ("flow", "gan", "vae"):
        row = re.search(rf"^{name}\*?\s+300((?:\s+[\d.]+)+)", readme, re.M)
        acc, ap, auc = (float(x) / 100 for x in row.group(1).split()[:3])
        figures = results["generators"][name]
        assert auc == pytest.approx(figures["auc"], abs=0.02)
        assert ap == pytest.approx(figures["ap"], abs=0.02)
        assert acc == pytest.approx(figures["acc"], abs=0.04)


def test_the_readmes_twenty_seconds(demo):
    workdir, _ = demo
    code = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "ItemDetector" in code
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=workdir.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"(real|fake) [01]\.\d+\n", done.stdout)


def test_predict_with_records_and_with_a_caption(demo, tmp_path):
    workdir, text = demo
    command = text.split("with its evidence:\n")[1].splitlines()[0].split()
    assert command[:2] == ["item-jax", "predict"]
    out = run(*command[1:], "--json", tmp_path / "p.jsonl")
    assert "P(fake) = " in out and "P(fake) without it" in out and "caption: " in out
    row = json.loads((tmp_path / "p.jsonl").read_text())
    assert 0 <= row["p_fake"] <= 1 and row["status"] == "done" and row["objects"]
    image = command[2]
    out = run("predict", image, "--head", workdir / "head", "--caption", "a red ring")
    assert "caption: a red ring" in out


def test_predict_goes_on_after_a_bad_image(demo, tmp_path):
    workdir, _ = demo
    (tmp_path / "bad.jpg").write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    out = run(
        *("predict", tmp_path / "bad.jpg", tmp_path / "good.png"),
        *("--head", workdir / "head", "--caption", "red"),
        status=1,
    )
    assert "bad.jpg: failed: image: " in out and "good.png: " in out
    assert out.count("P(fake) = ") == 1


def test_predict_says_what_it_lacks(demo, tmp_path):
    workdir, _ = demo
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    out = run("predict", tmp_path / "good.png", "--head", workdir / "head", status=2)
    assert "--records --caption is required" in out
    records = ("--records", workdir / "records.jsonl")
    out = run(
        *("predict", tmp_path / "good.png", "--head", workdir / "head", *records),
        status=2,
    )
    assert "has no record for" in out and "good.png" in out
    out = run("predict", "x.png", "--head", tmp_path, "--caption", "x", status=2)
    assert "no head in" in out


def test_stages_from_a_run_card_with_overrides(demo, tmp_path):
    """A second head on the demo's embeddings: nothing is embedded again."""
    workdir, _ = demo
    card = ("--config", f"{ROOT / 'configs/miniature.py'}:{workdir}")
    out = run("embed", *card, "--workdir", workdir)
    assert "1700 images = 1700 embedded + 0 failed" in out
    (tmp_path / "embeddings").symlink_to(workdir / "embeddings")
    options = (*card, "--workdir", tmp_path)
    out = run(
        *("train", *options, "--config.misalignment.name=tidy"),
        *("--config.train.seeds", "1", "--config.train.epochs=3"),
    )
    assert "trained 1 head on 400 real + 400 fake of vae, 3 epochs" in out
    out = run("evaluate", *options, "--config.baselines=cosine")
    assert "misalignment 'tidy'" in out
    out = run("evaluate", *options, "--head", workdir / "head")
    assert "misalignment 'item'" in out


def test_index_join_embed_with_failures(tiny_clip, tmp_path):
    images = tmp_path / "images"
    for i, label in enumerate(("real", "fake", "real", "fake")):
        (images / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (60 * i, 0, 0)).save(images / label / f"{i}.png")
    (images / "real" / "0.png").write_bytes(b"\x89PNG no more")
    lines = [
        {"key": f"{'fake' if i % 2 else 'real'}/{i}.png", "caption": f"red {i}"}
        for i in range(3)
    ]
    (tmp_path / "captions.jsonl").write_text(
        "".join(json.dumps(x) + "\n" for x in lines)
    )
    (tmp_path / "run.json").write_text(
        '{"captioner": {"id": "me"}, "fingerprint": "1"}'
    )
    out = run(
        *("index", "--images", images, "--captions", tmp_path / "captions.jsonl"),
        *("--out", tmp_path / "run/records.jsonl"),
    )
    assert "4 images = 3 captioned + 0 failed in a sidecar + 1 without a caption" in out
    embed = ("embed", "--workdir", tmp_path / "run", f"--config.tower={tiny_clip[0]}")
    out = run(*embed, status=1)
    assert "4 images = 2 embedded + 2 failed" in out
    assert "failed: fake/3.png: caption: the record has none" in out
    assert "failed: real/0.png: image: " in out
    manifest = json.loads((tmp_path / "run/embeddings/manifest.json").read_text())
    assert manifest["fingerprint"]["captioner"] == "me (1)"
    # The file is mended; the record without a caption is not.
    Image.new("RGB", (40, 40)).save(images / "real" / "0.png")
    assert "2 embedded + 2 failed" in run(*embed, status=1)
    assert "3 embedded + 1 failed" in run(*embed, "--retry-failed", status=1)


@pytest.mark.parametrize(
    "words, message",
    [
        (["embed", "--workdir", "w", "--config.trian.epochs=3"], "Did you mean 'train"),
        (["embed", "--workdir", "w", "--confg.train.epochs=3"], "unknown argument"),
        (["embed", "--workdir", "w", "--config.seed"], "needs a value"),
        (["embed", "--workdir", "w", "--config.embed.shard_size=0"], "at least 1"),
        (
            ["index", "--images", ".", "--out", "o", "--config.seed=1"],
            "takes no --conf",
        ),
        (["embed", "--workdir", "w"], "no records at w/records.jsonl: make them with"),
        (["train", "--workdir", "w"], "no embedding cache in w/embeddings"),
        (["evaluate", "--workdir", "w"], "no embedding cache in w/embeddings"),
        (["index", "--images", "nowhere", "--out", "o"], "no folder nowhere"),
        (["embed", "--workdir", "w", "--config", "x.py"], "no config file 'x.py'"),
    ],
)
def test_errors_are_sentences(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert door.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"item-jax {words[0]}: ") and message in error


def test_every_verb_has_help_with_an_example(capsys):
    with pytest.raises(SystemExit):
        door.main(["--help"])
    verbs = re.search(r"^  VERB\n((?:    .*\n)+)", capsys.readouterr().out, re.M)
    names = re.findall(r"^    (\S+)", verbs.group(1), re.M)
    assert {"demo", "index", "embed", "train", "evaluate", "predict", "check"} <= set(
        names
    )
    for name in names:
        with pytest.raises(SystemExit) as stopped:
            door.main([name, "--help"])
        assert stopped.value.code == 0
        assert f"example:\n  item-jax {name}" in capsys.readouterr().out


def test_check_and_config(capsys):
    assert door.main(["check"]) == 0
    assert "jaxlib" in capsys.readouterr().out
    assert door.main(["config", "--config.train.epochs=7"]) == 0
    out = capsys.readouterr().out
    assert "--config.train.epochs=7\n" in out and "--config.misalignment.w1=1.0" in out
