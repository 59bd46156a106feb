import json
import os
import shutil
import stat
import subprocess
import sys

import pytest

from item_jax import ItemDetector, files, hub
from item_jax.fitted import FittedMethod
from item_jax.records import read_records

PUSH = """
import sys
import item_jax
head, results, images = sys.argv[1:]
detector = item_jax.ItemDetector.from_pretrained(head)
print(detector.push_to_hub("somebody/head", results=results, token="secret"))
"""

PULL = """
import sys
import item_jax
records, images, towers, revision = sys.argv[1:]
detector = item_jax.ItemDetector.from_pretrained(
    "somebody/head", towers=towers or None, revision=revision or None
)
records = [r for r in item_jax.read_records(records) if r.split == "test"]
for p in detector.predict(records, images=images):
    print(p.key, p.p_fake.hex() if p.p_fake is not None else p.status)
"""


@pytest.fixture
def run(hub_server, tmp_path):
    """Runs a program that knows the stand-in as the Hub, from a folder of its own."""

    def run_program(program, *arguments):
        home = tmp_path / "home"
        env = os.environ | {
            "HF_ENDPOINT": hub_server.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run_program


@pytest.mark.slow
def test_a_head_pushed_and_pulled_gives_the_same_scores(
    run, hub_server, evaluated, tiny_clip, tmp_path
):
    """In another workdir, with the towers moved."""
    summary = evaluated.results() / "results.json"
    images = evaluated.path / "images"
    done = run(PUSH, evaluated.method(), summary, images)
    assert done.returncode == 0, done.stderr
    commit = done.stdout.split()[-1]
    content = hub_server.commits["somebody/head"][commit]
    assert set(content) == {"config.json", "weights.safetensors", "README.md"}
    clip = tiny_clip[0].resolve()
    for name, data in content.items():
        assert str(clip.parent).encode() not in data, name
    assert "| gan" in content["README.md"].decode()

    moved = shutil.copytree(clip, tmp_path / "elsewhere" / "towers")
    shutil.copytree(images, tmp_path / "photos")
    arguments = [evaluated.records, tmp_path / "photos"]
    pulled = run(PULL, *arguments, moved, "")
    assert pulled.returncode == 0, pulled.stderr
    here = ItemDetector.from_pretrained(evaluated.method())
    records = [r for r in read_records(evaluated.records) if r.split == "test"]
    expected = {
        p.key: p.p_fake.hex() if p.p_fake is not None else p.status
        for p in here.predict(records, images=images)
    }
    found = dict(line.rsplit(" ", 1) for line in pulled.stdout.splitlines())
    assert found == expected and len(found) == 13

    assert run(PULL, *arguments, moved, commit).stdout == pulled.stdout
    lost = run(PULL, *arguments, "", "")
    assert lost.returncode == 1 and "--towers" in lost.stderr
    wrong = run(PULL, *arguments, moved, "f" * 40)
    assert "cannot fetch 'somebody/head' from the Hugging Face Hub" in wrong.stderr


@pytest.mark.slow
def test_a_hub_that_refuses_is_an_error_in_one_sentence(run, evaluated):
    program = PUSH.replace('"secret"', '"wrong"').replace(", results=results", "")
    done = run(program, evaluated.method(), "", "")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: cannot publish to 'somebody/head' on the")


def test_towers_of_a_workdir_that_was_moved_are_found(tmp_path, evaluated):
    """By where they are in it; other names stay as they are."""
    towers = tmp_path / "new/run/models/clip"
    towers.mkdir(parents=True)
    (towers / "config.json").write_text("{}")
    head = tmp_path / "new/run/head"
    assert hub.find_towers("/gone/run/models/clip", head) == str(towers)
    assert hub.find_towers("/gone/other/clip2", head) == "/gone/other/clip2"
    assert hub.find_towers("owner/clip", head) == "owner/clip"
    assert hub.find_towers(str(towers), head) == str(towers)
    weights = towers / "model.safetensors"
    weights.touch()
    found = hub.find_towers("/gone/run/models/clip/model.safetensors", head)
    assert found == str(weights)


def test_a_published_method_names_no_folder_of_this_machine(evaluated):
    method = FittedMethod.load(evaluated.method())
    tower = method.embedding["tower"]
    assert tower["name"].startswith("/")
    shared = hub.portable(method)
    own = shared.embedding["tower"]
    assert own == tower | {"name": tower["name"].rpartition("/")[2]}
    assert method.embedding["tower"] == tower, "the method itself is as it was"
    assert hub.short_name("timm/vit_large.openai") == "timm/vit_large.openai"
    assert hub.short_name("ViT-L-14") == "ViT-L-14"
    assert hub.short_name("C:\\models\\clip") == "clip"


def test_the_card_has_data_protocol_figures_range_and_limits(evaluated, tmp_path):
    method = FittedMethod.load(evaluated.method())
    summary = files.read_json(evaluated.results() / "results.json")
    method.save(tmp_path / "h", results=summary)
    card = (tmp_path / "h/README.md").read_text()
    own = summary["methods"]["head"]["generators"]["gan"]
    low, high = (100 * end for end in own["interval_95"]["auc"])
    assert f"{100 * own['auc']:.2f} ({low:.1f} to {high:.1f})" in card
    training, tower = method.config["training"], method.embedding["tower"]
    for text in (
        *(f"| real images | {training['real']:,} |", training["records_sha256"]),
        *("Protocol full: every image", "## Limits", tower["checkpoint_sha256"]),
        *("untested on anything else", f"D = {tower['embed_dim']}"),
    ):
        assert text in card, text
    assert tower["name"] not in card
    assert "`item-jax evaluate` makes them" in method.card()
    other = FittedMethod.load(evaluated.method("cosine"))
    summary["methods"].pop("cosine")
    with pytest.raises(ValueError, match="the results are not of this method"):
        other.card(summary)


def test_hostile_names_stay_text_in_a_card(evaluated):
    method = FittedMethod.load(evaluated.method())
    hostile = "x|y](http://z)<script>\n# heading"
    training = method.config["training"] | {"generators": [hostile]}
    config = json.loads(json.dumps(method.config | {"training": training}))
    card = FittedMethod(config, method.state, method.module).card()
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert "\n# heading" not in card and "x\\|y\\]" in card


def test_the_files_of_a_method_can_be_read_by_a_group(evaluated, tmp_path):
    before = os.umask(0o027)
    try:
        FittedMethod.load(evaluated.method()).save(tmp_path / "h")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "h").iterdir()}
    assert modes == {0o640}


def test_a_folder_has_no_revision(evaluated):
    with pytest.raises(ValueError, match="is a folder, which has none"):
        ItemDetector.from_pretrained(evaluated.method(), revision="main")


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("asked the Hub"))
    for name in ("run/head", "run/methods/npr", "run/clip", "other"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("run/head", "run/methods/npr"):
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "run/clip/config.json").write_text('{"model_type": "clip"}')
    for name, words in (
        ("run/haed", "run has clip, head, methods. Did you mean 'run/head'?"),
        ("rum", "OWNER/NAME. .* has other, run. Did you mean 'run'?"),
        ("gone/run/head", "gone/run does not exist"),
        ("run", "it has head, methods/npr: did you mean 'run/head'?"),
        ("run/clip", "is a checkpoint of model type 'clip', not a fitted method"),
    ):
        with pytest.raises(ValueError, match=words.replace("?", r"\?")):
            hub.load(name)
    monkeypatch.setattr(hub, "download", lambda name, revision: tmp_path / "run/clip")
    with pytest.raises(ValueError, match="checkpoint of model type"):
        hub.load("somebody/head")  # no such folder above: it is asked for


COMMAND = "import sys; from item_jax.__main__ import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_towers_are_taken_at_their_revision(run, hub_server, evaluated, tiny_clip):
    """`--towers ID@REVISION`; the main branch has moved on to other weights."""
    from safetensors.numpy import load, save

    content = {p.name: p.read_bytes() for p in tiny_clip[0].iterdir() if p.is_file()}
    tensors = load(content["model.safetensors"])
    tensors["visual_projection.weight"] = tensors["visual_projection.weight"] * 2
    changed = content | {"model.safetensors": save(tensors, {"format": "pt"})}
    old, new = "a" * 40, "b" * 40
    hub_server.commits["somebody/clip"] = {old: content, new: changed}
    hub_server.main["somebody/clip"] = new
    image = next(iter((evaluated.path / "images" / "test").rglob("*.png")))
    words = ["predict", image, "--head", evaluated.method(), "--caption", "a dog"]
    (expected,) = ItemDetector.from_pretrained(evaluated.method()).predict(
        image, captions=["a dog"]
    )
    done = run(COMMAND, *words, "--towers", f"somebody/clip@{old}")
    assert done.returncode == 0, done.stderr
    assert f"P(fake) = {expected.p_fake:.3f}" in done.stdout
    main_branch = run(COMMAND, *words, "--towers", "somebody/clip")
    assert main_branch.returncode == 2
    assert "checkpoint_sha256" in main_branch.stderr
    gone = run(COMMAND, *words, "--towers", f"somebody/clip@{'c' * 40}")
    assert gone.returncode == 2 and "cannot fetch 'somebody/clip'" in gone.stderr
