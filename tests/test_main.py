"""The real program in a real process, as a person would use it."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from item_jax import __main__ as door
from item_jax import commands, config
from item_jax.commands import check, predict
from item_jax.datasets import miniature
from item_jax.records import Record, write_records

ROOT = Path(__file__).parent.parent
FAMILIES = (
    *("autoregressive", "diffusion", "flow", "gan", "latent", "masked", "repaint"),
    "vae",
)


def run(*words, status=0, cwd=None, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "item_jax", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""} | environment,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def in_one_line(text):
    """A text without its line breaks, for sentences."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's working folder and what it printed, from a fresh process."""
    workdir = tmp_path_factory.mktemp("demo") / "item-jax-demo"
    # One device, as a newcomer's laptop has.
    return workdir, run("demo", "--workdir", workdir, XLA_FLAGS="")


def test_the_demo_says_what_it_shows(demo):
    workdir, text = demo
    results = json.loads((workdir / "results/results.json").read_text())
    assert results["counts"] == {"in": 1700, "done": 1700, "failed": 0}
    assert set(results["generators"]) == set(FAMILIES)
    for name in FAMILIES:
        # The fakes pass the gate: what is seen of them, or leaks, is not all.
        assert 0.45 < results["generators"][name]["auc"] < 0.8
    assert "not computed by this run" in text and "choice of training images" in text
    assert text.count("against the 500 shared real images") == len(FAMILIES)
    assert f"\n  item-jax report --workdir {workdir}\n" in text
    for claim, found in miniature.claims().items():
        assert re.search(rf"{found['verdict']} +{re.escape(claim)} ", text)
    assert results["methods"]["head"]["range"]["generators"] == ["vae"]
    assert "vae*" in text and "macro average" in text
    assert "toy world" in in_one_line(text)
    assert results["methods"]["head"]["range"]["toy_world"] is True
    assert list(results["methods"]) == [
        "head",
        "caption",
        "cosine",
        "image",
        "constant",
    ]


def test_the_readme_states_the_demos_figures(demo):
    """Its table is what the demo prints, within what another machine may change."""
    workdir, _ = demo
    results = json.loads((workdir / "results/results.json").read_text())
    readme = (ROOT / "README.md").read_text()
    for name in FAMILIES:
        row = re.search(rf"^{name}\*?\s+500\s+150((?:\s+[\d.]+)+)", readme, re.M)
        acc, balanced, ap, _, auc = (float(x) / 100 for x in row.group(1).split()[:5])
        figures = results["generators"][name]
        assert auc == pytest.approx(figures["auc"], abs=0.02)
        assert ap == pytest.approx(figures["ap"], abs=0.02)
        assert acc == pytest.approx(figures["acc"], abs=0.04)
        assert balanced == pytest.approx(figures["balanced_acc"], abs=0.04)


def test_the_readmes_twenty_seconds(demo):
    workdir, _ = demo
    code = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "ItemDetector" in code
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=workdir.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
    )
    assert done.returncode == 0, done.stderr
    # Far from the threshold: no other CPU says otherwise.
    verdict, p_fake = done.stdout.splitlines()[0].split()
    assert verdict == "fake" and float(p_fake) > 0.75
    assert done.stdout.count("score without it:") == 4


def test_predict_with_records_and_with_a_caption(demo, tmp_path):
    workdir, text = demo
    command = text.split("with its evidence:\n")[1].splitlines()[0].split()
    assert command[:2] == ["item-jax", "predict"]
    out = run(*command[1:], "--json", tmp_path / "p.jsonl")
    assert "P(fake) = " in out and "P(fake) without it" in out and "caption: " in out
    row = json.loads((tmp_path / "p.jsonl").read_text())
    assert 0 <= row["p_fake"] <= 1 and row["status"] == "done" and row["objects"]
    assert len(row["objects"]) == 4 and row["p_fake"] > 0.75 and row["label"] == "fake"
    assert "; right: the records say fake\n" in out
    picture = workdir / "evidence/0005.jpg.png"
    assert f"\nevidence: {picture}\n" in out and picture.read_bytes()[1:4] == b"PNG"
    assert row["range"]["toy_world"] and row["range"]["real"] == 300
    assert "says nothing about photographs" in out
    image = command[2]
    out = run("predict", image, "--head", workdir / "head", "--caption", "a red ring")
    assert "caption: a red ring" in out and "the records say" not in out


def test_a_wrong_verdict_and_several_pictures_are_said():
    row = {
        **{"image": "a.png", "status": "done", "verdict": "real", "label": "fake"},
        **{"p_fake": 0.053, "cosine": 0.8, "caption": "a ring"},
    }
    first, caption = predict._verdict_text(row, None, 0.5).splitlines()
    assert first.endswith("cosine +0.800; wrong: the records say fake")
    assert caption == "  caption: a ring"
    assert predict._drawn_text(["e/a.png", "e/b.png"]) == (
        "evidence: 2 pictures, the first e/a.png"
    )
    assert "no picture" in predict._drawn_text([])


def test_an_image_without_a_record_is_told_the_remedy(tmp_path):
    file = tmp_path / "records.jsonl"
    write_records(file, [Record(f"test/gan/{i:04}.jpg") for i in range(200)])
    with pytest.raises(ValueError) as refused:
        predict._records_of(tmp_path, ["test/gan/0999.jpg"], file)
    message = str(refused.value)
    assert "has 200 records and none for" in message
    assert message.count("test/gan/0") == 4, "the image and three keys"
    assert "test/gan/0199.jpg" in message
    assert "--caption TEXT or --caption-with MODEL" in message


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


@pytest.mark.slow
def test_json_has_each_image_as_soon_as_it_is_done(demo, tmp_path, monkeypatch):
    workdir, _ = demo
    (tmp_path / "photos").mkdir()
    for i in range(5):
        Image.new("RGB", (64, 64), (40 * i, 0, 0)).save(tmp_path / f"photos/{i}.png")
    lines, rows = tmp_path / "p.jsonl", []

    def say(text):
        if "P(fake) = " in text:  # those before this one are in the file
            rows.append(len(lines.read_text().splitlines()))

    monkeypatch.setattr(predict, "say", say)
    monkeypatch.setattr(predict, "AT_ONCE", 2)
    words = ["predict", tmp_path / "photos", "--head", workdir / "head"]
    words += ["--caption", "a ring", "--json", lines, "--no-evidence"]
    assert door.main([*map(str, words)]) == 0
    assert rows == [0, 1, 2, 3, 4] and len(lines.read_text().splitlines()) == 5


@pytest.mark.slow
def test_predict_says_what_it_lacks(demo, tmp_path):
    workdir, _ = demo
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.png")
    head = ("--head", workdir / "head")
    out = run("predict", tmp_path / "good.png", *head, status=2)
    assert "give either --records FILE or --caption TEXT or --caption-with" in out
    records = ("--records", workdir / "records.jsonl")
    out = run(
        *("predict", tmp_path / "good.png", "--head", workdir / "head", *records),
        status=2,
    )
    assert "and none for" in out and "good.png; the nearest keys: " in out
    out = run("predict", tmp_path / "*.gif", *head, "--caption", "x", status=2)
    assert "no image at " in out and "*.gif" in out
    # Before towers are loaded, which would take longer.
    nowhere = ("--caption", "x", "--towers", "nowhere")
    out = run("predict", "gone.png", *head, *nowhere, status=2)
    assert "no image at 'gone.png'" in out
    out = run("predict", "x.png", "--head", tmp_path, "--caption", "x", status=2)
    assert "no fitted method in" in out


@pytest.mark.slow
def test_stages_from_a_run_card_with_overrides(demo, tmp_path):
    """More methods on the demo's embeddings: nothing is embedded again."""
    workdir, _ = demo
    card = ("--config", f"miniature:{workdir}")
    out = run("embed", *card, "--workdir", workdir)
    assert "2900 images = 2900 embedded + 0 failed" in out
    (tmp_path / "embeddings").symlink_to(workdir / "embeddings")
    options = (*card, "--workdir", tmp_path)
    out = run(
        *("train", *options, "--config.misalignment.name=tidy"),
        *("--config.train.seeds", "1", "--config.train.epochs=3"),
    )
    assert "trained 'item', 1 seed, on 300 real + 300 fake of vae, 3 epochs" in out
    assert "fitted beside it, in methods/: constant, cosine, image, caption" in out
    head = (tmp_path / "head/config.json").read_text()
    out = run("train", *options, status=2)
    assert "misalignment.name was 'tidy' and is 'item'" in out and "--as NAME" in out
    assert (tmp_path / "head/config.json").read_text() == head
    out = run(
        *("train", *options, "--as", "only-global", "--config.misalignment.w2=0"),
        *("--config.train.seeds=1", "--config.train.epochs=3"),
    )
    assert "wrote" in out and "methods/only-global" in out
    out = run("evaluate", *options, "--methods=head,cosine,only-global")
    assert "misalignment 'tidy'" in in_one_line(out)
    results = json.loads((tmp_path / "results/results.json").read_text())
    assert list(results["methods"]) == ["head", "cosine", "only-global"]
    before = (tmp_path / "results/results.json").read_bytes()
    out = run("evaluate", *options, "--head", workdir / "head", "--as", "demos")
    assert "misalignment 'item'" in in_one_line(out) and "results/demos" in out
    assert (tmp_path / "results/results.json").read_bytes() == before
    out = run("evaluate", *options, "--methods=cosin", status=2)
    assert "Did you mean 'cosine'" in out


@pytest.mark.slow
def test_a_contradicting_card_is_a_warning(demo, tmp_path):
    workdir, _ = demo
    (tmp_path / "embeddings").symlink_to(workdir / "embeddings")
    card = tmp_path / "card.py"
    card.write_text(
        "from item_jax import config\n\n\ndef get_config():\n"
        "    c = config.default()\n    c.data.score_threshold = 0.5\n"
        "    c.train.epochs = 1\n    c.train.baselines = ()\n    return c\n"
    )
    said = "the run card says data.score_threshold=0.5, the cache was made with 0.3"
    assert said in run("train", "--config", card, "--workdir", tmp_path)
    out = run("evaluate", "--config", card, "--workdir", tmp_path)
    assert said in in_one_line(out)
    results = json.loads((tmp_path / "results/results.json").read_text())
    assert said in results["warnings"]
    out = run("evaluate", "--config", "tidy_vitl14", "--workdir", tmp_path)
    assert "misalignment.name='tidy', head was made with 'item'" in in_one_line(out)


@pytest.mark.slow
def test_named_caches_and_their_results(demo, tmp_path):
    """Trained on the plain cache, tested on a perturbed one beside it."""
    workdir, _ = demo
    world = workdir / "miniature"
    records = [
        json.loads(r) for r in (workdir / "records.jsonl").read_text().split("\n")[:-1]
    ]
    some = [r for r in records if r["split"] == "test"][::30]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    options = ("--config", f"miniature:{workdir}", "--workdir", tmp_path)
    out = run(
        *("embed", *options, "--cache", "jpeg2"),
        *("--config.perturb.name=jpeg", "--config.perturb.severity=2"),
    )
    assert f"{len(some)} embedded" in out and "caches/jpeg2" in out
    out = run(
        *("evaluate", *options, "--cache", "jpeg2", "--head", workdir / "head"),
    )
    assert "perturbation jpeg:2" in out and (tmp_path / "results/jpeg2").is_dir()
    assert "warning: perturb.name: head has 'none', found 'jpeg'" in out
    for name in ("head", "caption", "constant", "cosine", "image"):
        assert name in out, "a test-only cache shows every method"
    assert not (tmp_path / "embeddings").exists()
    assert world.is_dir()
    out = run("evaluate", *options, "--cache", "../x", status=2)
    assert "allowed: letters, digits" in out


@pytest.mark.slow
def test_captions_of_other_pixels_are_refused(demo, tmp_path):
    """caption.py --perturb jpeg:2 met clean pixels without a word."""
    workdir, _ = demo
    records = (workdir / "records.jsonl").read_text().split("\n")[:4]
    (tmp_path / "records.jsonl").write_text("\n".join(records) + "\n")
    facts = {
        "images": str(workdir / "miniature/images"),
        "captioner": {"id": "blip2", "perturbation": "jpeg:2"},
    }
    (tmp_path / "records.run.json").write_text(json.dumps(facts))
    options = ("embed", "--config", f"miniature:{workdir}", "--workdir", tmp_path)
    out = run(*options, status=2)
    assert "the captions were made of pixels perturbed by jpeg:2" in out
    assert "--config.perturb.name=jpeg --config.perturb.severity=2" in out
    assert not (tmp_path / "embeddings").exists()
    jpeg = ("--config.perturb.name=jpeg", "--config.perturb.severity=2")
    assert "4 embedded" in run(*options, *jpeg)


def test_a_nan_stops_at_the_towers_the_cache_and_the_method(demo, tmp_path):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    workdir, _ = demo
    shutil.copytree(workdir / "head", tmp_path / "head")
    path = tmp_path / "head/weights.safetensors"
    weights = load_file(path)
    weights["params.output.bias"] = np.array([np.nan, 0], np.float32)
    save_file(weights, path)
    fake = next((workdir / "miniature/images/test").glob("gan/1_fake/*"))
    out = run(
        *("predict", fake, "--head", tmp_path / "head", "--caption", "a ring"),
        *("--json", tmp_path / "p.jsonl"),
        status=2,
    )
    assert "'params.output.bias' holds numbers that are not finite" in out
    assert not (tmp_path / "p.jsonl").exists()
    shutil.copytree(workdir / "miniature/clip", tmp_path / "clip")
    path = tmp_path / "clip/model.safetensors"
    weights = load_file(path)
    name = next(n for n in weights if "post_layernorm.weight" in n)
    weights[name] = np.full_like(weights[name], np.nan)
    save_file(weights, path)
    (tmp_path / "records.jsonl").write_text('{"key": "a.png", "caption": "x"}\n')
    out = run(
        *("embed", "--workdir", tmp_path, f"--config.data.images={tmp_path}"),
        f"--config.tower={tmp_path / 'clip'}",
        status=2,
    )
    assert f"NaN or infinite values in {name}" in out


@pytest.mark.slow
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
    captioner = manifest["embedding"]["captioner"]
    assert captioner == {"id": "me", "perturbation": "none", "fingerprint": "1"}
    # The file is mended; the record without a caption is not.
    Image.new("RGB", (40, 40)).save(images / "real" / "0.png")
    out = run(*embed, status=1)
    assert "1 of 4 image files changed, such as 'real/0.png'" in out
    assert "4 images = 3 embedded + 1 failed" in out
    out = run(*embed, "--retry-failed", status=1)
    assert "3 embedded + 1 failed, all shards were there" in out


@pytest.mark.parametrize(
    "words, message",
    [
        (["embed", "--workdir", "w", "--config.trian.epochs=3"], "Did you mean 'train"),
        (["embed", "--workdir", "w", "--confg.train.epochs=3"], "unknown option"),
        (["train", "--workdirr", "w"], "Did you mean '--workdir'"),
        (["predict", "x.jpg", "--hed", "h"], "Did you mean '--head'"),
        (["embed", "--workdir", "w", "--config.seed"], "needs a value"),
        (["embed", "--workdir", "w", "--config.embed.shard_size=0"], "at least 1"),
        (["demo", "--config.seed=1"], "takes no --config option"),
        (
            ["index", "--images", ".", "--out", "o", "--config.seed=1"],
            "train, fit and paper do",
        ),
        (["embed", "--workdir", "w"], "no records at w/records.jsonl: make them with"),
        (["train", "--workdir", "w"], "`item-jax embed` makes one"),
        (["evaluate", "--workdir", "w"], "`item-jax embed` makes one"),
        (["index", "--images", "nowhere", "--out", "o"], "no folder 'nowhere'"),
        (["embed", "--workdir", "w", "--config", "x.py"], "no run card 'x.py'"),
        (["predict", ".", "--head", "h", "--caption", "c"], "no fitted method 'h'"),
        (
            ["fit", "photos/", "--workdir", "w", "--caption-with", "m"],
            "/photos). Images are expected below it, in folders that tell label",
        ),
        (["fit", ".", "--workdir", "w"], "--caption-with MODEL is needed"),
        (["fit", ".", "--workdir", "w", "--caption-with", "m"], "no image below '.'"),
        (["train", "--workdir", "w", "--method", "itm"], "Did you mean 'item'"),
        (["trian", "--workdir", "w"], "Did you mean 'train'"),
        # Overrides that were ignored without a word:
        *(
            (["evaluate", "--workdir", "w", f"--config.{field}"], "does not use")
            for field in (
                *("misalignment.w2=0", "misalignment.name=tidy"),
                *("data.score_threshold=0.9", "train.generators=van"),
            )
        ),
        *(
            (["train", "--workdir", "w", f"--config.{field}"], "embed")
            for field in ("tower=ViT-L14", "data.score_threshold=0.9")
        ),
        (
            ["train", "--workdir", "w", "--config.evaluate.threshold=0.9"],
            "is now 'train.threshold'",
        ),
        (["train", "--workdir", "w", "--config.train.threshold=50"], "at most 1"),
        (
            ["train", "--workdir", "w", "--as=x", "--config.train.baselines=cosine"],
            "train.baselines are fitted beside head/ only",
        ),
        (
            ["train", "--workdir", "w", "--config.train.baselines=cosin"],
            "Did you mean 'cosine'",
        ),
        *(
            (
                ["predict", "x.jpg", "--head=h", "--caption=c", f"--config.{field}"],
                "use",
            )
            for field in ("embed.shard_size=2", "embed.storage=float16")
        ),
        (
            ["train", "--workdir", "w", "--method=cosine", "--config.head.name=linear"],
            "method 'cosine' does not use 'head.name'",
        ),
        (
            ["train", "--workdir", "w", "--config.misalignment.w1=nan"],
            "a finite number",
        ),
    ],
)
def test_errors_are_sentences(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert door.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"item-jax {words[0]}: ") and message in error


def test_every_command_has_help_with_an_example(capsys):
    with pytest.raises(SystemExit):
        door.main(["--help"])
    found = re.search(r"^  COMMAND\n((?:    .*\n)+)", capsys.readouterr().out, re.M)
    names = re.findall(r"^    (\S+)", found.group(1), re.M)
    assert tuple(names) == commands.NAMES
    for name in names:
        with pytest.raises(SystemExit) as stopped:
            door.main([name, "--help"])
        assert stopped.value.code == 0
        said = capsys.readouterr().out
        assert f"example:\n  item-jax {name}" in said
        # The override it names is one that it takes.
        shown = re.search(r"are set by\s+--config\.(\S+?)=(\S+)", said)
        assert (shown is not None) == (name in config.READS and name != "config")
        if shown:
            c = config.default()
            config.override(c, *shown.groups())
            config.refuse_unused(name, [shown.group(1)])
            assert config.leaves(c) == config.leaves(config.default())


def test_without_arguments_it_says_where_to_begin(capsys):
    assert door.main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "required" not in said.err
    assert "\nBegin with: item-jax demo\n" in said.err and "predict  " in said.err


def test_a_command_without_its_arguments_shows_its_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        door.main(["predict"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "arguments are required: PATH, --head" in error
    assert error.endswith(f"example:\n  {predict.EXAMPLE}\n")


def test_check_and_config(capsys):
    assert door.main(["check"]) == 0
    out = capsys.readouterr().out
    for purpose in ("scoring: ready", "captions (--caption-with): ", "objects (--gr"):
        assert purpose in out
    assert "jaxlib " in out and "noun phrases of captions: " in out and "JAX: " in out
    if importlib.util.find_spec("gcsfs") is None:
        assert "packs on gs://: missing gcsfs: pip install 'item-jax[gcs]'" in out
    assert door.main(["config", "--config.train.epochs=7"]) == 0
    out = capsys.readouterr().out
    assert "--config.train.epochs=7\n" in out and "--config.misalignment.w1=1.0" in out
    assert "ITEM IV-A; 1 or more" in out, "the meaning and range"
    assert "one of item, clip" in out and "item_vitl14" in out


def test_check_knows_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = " ".join(command for _, _, command in check.PURPOSES)
    for extra in set(extras["optional-dependencies"]) - {"test"}:
        assert f"'item-jax[{extra}]'" in named, (
            f"item-jax check says nothing of {extra}"
        )


def test_a_closed_pipe_is_no_error(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m item_jax config | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.startswith("--config.") and done.stderr == ""
