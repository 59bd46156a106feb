"""The families: replicas of their whole trees, each file a link to a small one."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image

from item_jax import protocol
from item_jax.datasets import benchmarks, layout, several
from item_jax.datasets.benchmarks import forensynths


def read(root, name, **choice):
    return layout.read_benchmark(root, benchmarks.get(name), **choice)


def replica(top, name, split="test", suffix=".png"):
    """Builds the tree of a family's split with the published counts; returns `top`."""
    top.mkdir(parents=True)
    small = top / "small.png"
    Image.new("RGB", (8, 8)).save(small)
    table = benchmarks.get(name)
    sharing = Counter((p.generator, p.label) for p in table.places if p.split == split)
    begun = Counter()
    links = 0
    for place in table.places:
        if place.split != split:
            continue
        kind = place.generator, place.label
        total = table.counts.get((split, *kind), 12)
        count = total // sharing[kind] + (begun[kind] < total % sharing[kind])
        begun[kind] += 1
        folder = top / place.folder
        folder.mkdir(parents=True)
        for i in range(count):
            if links % 30_000 == 0:  # a file has room for so many names
                source = top / f"source{links}"
                shutil.copy(small, source)
            os.link(source, folder / f"{i:05d}{suffix}")
            links += 1
    for path in top.glob("s*"):
        if path.is_file():
            path.unlink()
    return top


def counts(found):
    return Counter((r.generator, r.label) for r in found.records)


# What the published sets hold, written down a second time, from the sources named in
# item_jax/datasets/benchmarks.py and not from its tables.
FORENSYNTHS = {
    **dict(progan=8000, stylegan=11982, stylegan2=15976, biggan=4000, gaugan=10000),
    **dict(stargan=3998, cyclegan=2642, deepfake=5405, whichfaceisreal=2000),
}


def test_forensynths(tmp_path):
    found = read(replica(tmp_path / "f", "forensynths"), "forensynths")
    assert not found.faults and not found.real_sources
    assert len(found.records) == 90_329
    labels = Counter(r.label for r in found.records)
    assert labels == {"real": 45_169, "fake": 45_160}
    n = Counter(r.generator for r in found.records)
    assert {g: n[g] for g in FORENSYNTHS} == FORENSYNTHS
    rest = sum(n[g] for g in ("crn", "imle", "san", "seeingdark", "whichfaceisreal"))
    assert rest == 28_326 and len(n) == 13
    keys = {r.key.rpartition("/")[0]: r for r in found.records}
    for folder, generator, label in (
        ("test/progan/tvmonitor/0_real", "progan", "real"),
        ("test/cyclegan/zebra/1_fake", "cyclegan", "fake"),
        ("test/biggan/1_fake", "biggan", "fake"),  # no class folders here
        ("test/whichfaceisreal/0_real", "whichfaceisreal", "real"),
    ):
        record = keys[folder]
        assert (record.generator, record.label) == (generator, label)
        assert (record.benchmark, record.split) == ("forensynths", "test")
    assert found.notes == ["not here at all: train, val"]


def test_unifd(tmp_path):
    found = read(replica(tmp_path / "u", "unifd", suffix=".JPG"), "unifd")
    assert not found.faults and len(found.records) == 10_000  # 8 tests, 10k files
    n = counts(found)
    assert n["imagenet", "real"] == n["laion", "real"] == n["dalle", "fake"] == 1000
    assert found.real_sources == {
        "guided": "imagenet",
        **dict.fromkeys(
            (
                *("ldm_200", "ldm_200_cfg", "ldm_100", "dalle"),
                *("glide_100_27", "glide_50_27", "glide_100_10"),
            ),
            "laion",
        ),
    }


def test_diffusionforensics(tmp_path):
    name = "diffusionforensics"
    top = replica(tmp_path / "d", name)
    lsun = top / "images/test/lsun_bedroom"
    (lsun / "midjourney").rename(lsun / "midjouney")  # as a tar of the release has it
    shutil.rmtree(lsun / "sdv1")  # the new one is what is used
    found = read(top, name)
    assert not found.faults
    n = counts(found)
    assert n["lsun_bedroom", "real"] == n["lsun_bedroom_adm", "fake"] == 1000
    assert n["lsun_bedroom_dalle2", "fake"] == 500
    assert n["lsun_bedroom_midjourney", "fake"] == 100
    assert found.real_sources["lsun_bedroom_midjourney"] == "lsun_bedroom"
    assert found.real_sources["imagenet_adm"] == "imagenet"
    assert found.real_sources["celebahq_if"] == "celebahq"
    # Only the paper's nine, and one real set for all of them.
    found = read(top, name, generators=("paper",))
    assert len({r.generator for r in found.records if r.label == "fake"}) == 9
    assert {r.generator for r in found.records if r.label == "real"} == {"lsun_bedroom"}
    assert not found.faults


def test_genimage(tmp_path):
    found = read(replica(tmp_path / "g", "genimage"), "genimage")
    assert not found.faults and len(found.records) == 100_000
    n = counts(found)
    assert n["ADM", "real"] == n["ADM", "fake"] == 6000
    assert n["stable_diffusion_v_1_5", "fake"] == 8000
    for record in found.records[::997]:
        folder = record.key.split("/")[-2]
        assert record.label == {"nature": "real", "ai": "fake"}[folder]
        assert record.split == "test"  # its val folder is what papers report on


def test_synthbuster(tmp_path):
    top = replica(tmp_path / "s", "synthbuster")
    found = read(top, "synthbuster")
    assert not found.faults and len(found.records) == 10_000
    n = counts(found)
    assert n["stable-diffusion-1-3", "fake"] == n["RAISE-1k", "real"] == 1000
    assert len(found.real_sources) == 9
    assert set(found.real_sources.values()) == {"RAISE-1k"}
    # The archive alone, as it is downloaded: the reals are noted, not missed.
    shutil.rmtree(top / "RAISE-1k")
    found = read(top, "synthbuster")
    assert not found.faults and len(found.records) == 9_000
    assert found.notes == ["not here at all: reals"]


def test_wildrf(tmp_path):
    found = read(replica(tmp_path / "w", "wildrf"), "wildrf", split="test")
    assert counts(found) == {
        (network, label): 12
        for network in ("reddit", "twitter", "facebook")
        for label in ("real", "fake")
    }
    for split in ("train", "val"):
        found = read(replica(tmp_path / split, "wildrf", split), "wildrf")
        assert {(r.generator, r.split) for r in found.records} == {("wildrf", split)}
        assert {r.key.split("/")[1]: r.label for r in found.records} == {
            "0_real": "real",
            "1_fake": "fake",
        }


@pytest.fixture
def small(monkeypatch):
    """`small(name)` makes that family's table expect a fiftieth of the images."""

    def shrink(name):
        module = importlib.import_module(f"item_jax.datasets.benchmarks.{name}")
        counts = {k: max(1, n // 50) for k, n in module.BENCHMARK.counts.items()}
        table = dataclasses.replace(module.BENCHMARK, counts=counts)
        monkeypatch.setattr(module, "BENCHMARK", table)

    return shrink


def test_what_is_wrong_is_said_by_name(small, tmp_path):
    small("unifd")
    top = replica(tmp_path / "u", "unifd")
    sets = top / "diffusion_datasets"
    shutil.rmtree(sets / "ldm_200")
    (sets / "dalle/1_fake/00003.png").unlink()
    (sets / "guided/1_fake/one.more.PNG").write_bytes(
        (sets / "guided/1_fake/00000.png").read_bytes()
    )
    (sets / "laion/0_real/00007.png").unlink()
    (sets / "laion/0_real/00007.png").write_bytes(b"")
    (sets / "extra").mkdir()
    shutil.copy(sets / "laion/0_real/00001.png", sets / "extra/1.png")
    found = read(top, "unifd")
    assert found.faults == [
        "ldm_200 (test): missing or empty: diffusion_datasets/ldm_200/1_fake",
        "guided (test): too many: 21 fake images, 20 expected",
        "dalle (test): short: 19 fake images, 20 expected",
        "diffusion_datasets/laion/0_real/00007.png: the file is empty (0 bytes)",
    ]
    assert "1 below diffusion_datasets" in found.notes[-1]
    assert len(found.records) == 180
    # What is not asked for is not missed.
    assert not read(top, "unifd", generators=["glide_50_27"]).faults[1:]


def test_the_odd_class_is_named(small, tmp_path):
    small("forensynths")
    top = replica(tmp_path / "f", "forensynths")
    (top / "test/progan/cow/1_fake/00001.png").unlink()
    shutil.rmtree(top / "test/stylegan/cat/0_real")
    found = read(top, "forensynths")
    assert found.faults[0] == (
        "stylegan (test): missing or empty: test/stylegan/cat/0_real"
    )
    assert (
        "progan (test): short: 79 fake images, 80 expected "
        "(test/progan/cow/1_fake 3; others 4)"
    ) in found.faults


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("forensynths", "test"),
        ("unifd", "diffusion_datasets"),
        ("diffusionforensics", "images"),
        ("diffusionforensics", "images/test"),
        ("diffusionforensics", "images/test/lsun_bedroom"),
        ("genimage", "ADM"),
        ("genimage", "ADM/imagenet_ai_0508_adm"),
    ],
)
def test_a_folder_of_the_tree_will_do(small, tmp_path, name, top):
    small(name)
    whole = read(replica(tmp_path / "x", name), name)
    part = read(tmp_path / "x" / top, name)
    below = {r.key: r for r in whole.records if r.key.startswith(f"{top}/")}
    assert len(part.records) == len(below)
    for record in part.records:
        same = below[f"{top}/{record.key}"]
        assert (record.label, record.generator) == (same.label, same.generator)


def test_a_folder_that_could_be_several_is_asked_about(tmp_path):
    for split in ("test", "train", "val"):
        for label in ("0_real", "1_fake"):
            folder = tmp_path / split / "progan" / "cat" / label
            folder.mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(folder / "1.png")
    (tmp_path / "test").rename(tmp_path / "unnamed")
    with pytest.raises(ValueError, match="could be any of .* test, val, train"):
        read(tmp_path / "unnamed", "forensynths")
    found = read(tmp_path / "train", "forensynths", train_subset="all")
    assert {r.split for r in found.records} == {"train"}  # by the folder's own name


def test_several_below_one_folder(small, tmp_path):
    for name in ("genimage", "synthbuster", "unifd"):
        small(name)
        replica(tmp_path / "data" / name.upper(), name)
    folders = {name: name.upper() for name in ("genimage", "synthbuster", "unifd")}
    found = several.find_all(tmp_path / "data", folders)
    assert not found.faults
    alone = {name: read(tmp_path / "data" / name.upper(), name) for name in folders}
    assert {(r.benchmark, r.key) for r in found.records} == {
        (name, f"{name.upper()}/{r.key}")
        for name, own in alone.items()
        for r in own.records
    }
    # GenImage's glide has real images of its own, Synthbuster's has not.
    lines = {
        line.split()[2]: line for line in found.text().splitlines() if "fake" in line
    }
    assert "against" not in lines["genimage/glide"]
    assert "against the real images of RAISE-1k" in lines["synthbuster/glide"]
    groups = protocol.groups(
        [vars(r) for r in found.records], real_sources=found.real_sources
    )
    names = Counter(found.records[i].benchmark for i in groups["synthbuster/glide"])
    assert names == {"synthbuster": 40}
    part = several.find_all(tmp_path / "data", folders, generators=["ADM", "dalle"])
    assert {r.benchmark for r in part.records} == {"genimage", "unifd"}
    assert any(note.startswith("synthbuster: left out") for note in part.notes)
    with pytest.raises(ValueError, match="generator of genimage, .* mean 'dalle3'"):
        several.find_all(tmp_path / "data", folders, generators=["dale3"])
    with pytest.raises(ValueError, match="training subset of .*adm-40000"):
        several.find_all(tmp_path / "data", folders, train_subset="adm-4000")
    out = tmp_path / "records.jsonl"
    words = ("index", "--images", tmp_path / "data", "--out", out, "--benchmark")
    assert run(*words, "genimage=GENIMAGE,unifd=UNIFD").returncode == 1  # the counts
    assert len(out.read_text().splitlines()) == len(alone["genimage"].records) + 200
    done = run(*words, "genimage=GENIMAGE,unifd=")
    assert done.returncode == 2 and "expected NAME=FOLDER" in done.stderr


def test_a_benchmark_and_ones_own_set_are_one_index(small, tmp_path):
    small("unifd")
    replica(tmp_path / "data/UniFD", "unifd")
    for label in ("real", "fake"):
        folder = tmp_path / "data/photos/mygan" / label
        folder.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (4, 4)).save(folder / f"{i}.png")
    out = tmp_path / "records.jsonl"
    words = ("index", "--images", tmp_path / "data", "--out", out, "--benchmark")
    done = run(*words, "unifd=UniFD,mine=photos")
    assert done.returncode == 1, done.stderr  # the counts
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    own = [row for row in rows if row["benchmark"] == "mine"]
    assert len(rows) == 206 and len(own) == 6
    assert {(row["generator"], row["label"]) for row in own} == {
        ("mygan", "real"),
        ("mygan", "fake"),
    }
    assert all((tmp_path / "data" / row["key"]).is_file() for row in rows)
    said = json.loads(out.with_suffix(".run.json").read_text())["index"]["benchmarks"]
    assert said["mine"]["folder"] == "photos" and said["unifd"]["folder"] == "UniFD"
    # A choice is the benchmark's; a name that resembles one is said.
    done = run(*words, "unifd=UniFD,mine=photos", "--generators", "dalle")
    assert "note: mine: taken whole" in done.stdout
    done = run(*words, "unifdd=photos")
    assert done.returncode == 0 and "Did you mean 'unifd'?" in done.stdout


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"mine": "a", "yours": "a/b"}, "yours=a/b lies inside mine=a: its images"),
        ({"mine": "a", "yours": "./a/"}, "lies inside mine=a"),
        ({"mine": "../a"}, "expected a folder below --images, such as mine=a"),
        ({"mine": "/data/a"}, "expected a folder below --images, such as mine=a"),
        ({"mine": "."}, "expected a folder below --images, such as mine=FOLDER"),
    ],
)
def test_folders_of_several_sets_lie_beside_each_other(tmp_path, folders, words):
    with pytest.raises(ValueError, match=words):
        several.find_all(tmp_path, folders)


def test_a_choice_needs_a_known_benchmark_among_several(tmp_path):
    for choice in ({"split": "test"}, {"generators": ["x"]}, {"train_subset": "all"}):
        with pytest.raises(ValueError, match="which none of mine, yours is"):
            several.find_all(tmp_path, {"mine": "a", "yours": "b"}, **choice)


@pytest.mark.parametrize("split", ["test", "train"])
def test_genimage_one_generator_at_a_time_misses_nothing(small, tmp_path, split):
    small("genimage")
    top = replica(tmp_path / "g", "genimage", split)
    for folder in top.iterdir():
        if folder.name not in ("ADM", "glide"):
            shutil.rmtree(folder)
    found = read(top, "genimage", train_subset="all")
    assert not found.faults
    assert {r.generator for r in found.records} == {"ADM", "glide"}
    (note,) = [n for n in found.notes if n.startswith("not here at all")]
    assert "wukong (test)" in note and "wukong (train)" in note
    # Half of what was downloaded is still missed.
    shutil.rmtree(next((top / "ADM").glob("*/*")) / "nature")
    (fault,) = read(top, "genimage", train_subset="all").faults
    assert fault.startswith(f"ADM ({split}): missing or empty: ADM/")


def test_something_else_altogether(tmp_path):
    (tmp_path / "holiday").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "holiday/1.png")
    with pytest.raises(ValueError, match="nothing of genimage below .* in holiday"):
        layout.find(tmp_path, "GenImage")
    found = layout.find(tmp_path, "gen-image")
    assert "Did you mean 'genimage'?" in found.notes[-1]
    with pytest.raises(ValueError, match="split needs a known benchmark, not 'mine'"):
        layout.find(tmp_path, "mine", split="test")
    with pytest.raises(ValueError, match="Did you mean 'unifd'"):
        benchmarks.get("unifdd")


def test_names_are_checked(small, tmp_path):
    small("genimage")
    top = replica(tmp_path / "g", "genimage")
    with pytest.raises(
        ValueError, match="generator of genimage 'glyde'.* mean 'glide'"
    ):
        read(top, "genimage", generators=["glyde"])
    with pytest.raises(
        ValueError, match="split of genimage 'tset'.*Did you mean 'test'"
    ):
        read(top, "genimage", split="tset")
    with pytest.raises(
        ValueError, match="training subset of genimage 'adm-4000'.*'adm-40000'"
    ):
        read(top, "genimage", train_subset="adm-4000")
    with pytest.raises(ValueError, match="is of split 'train'"):
        read(top, "genimage", split="train")


@pytest.fixture
def progan(tmp_path):
    """A training set with 30 images of every class and label."""
    image = tmp_path / "1.png"
    Image.new("RGB", (4, 4)).save(image)
    for name in forensynths.LSUN:
        for label in ("0_real", "1_fake"):
            folder = tmp_path / "train/progan" / name / label
            folder.mkdir(parents=True)
            for i in range(30):
                os.link(image, folder / f"{i}.png")
    image.unlink()
    return tmp_path


def test_the_training_subset_is_chosen_by_hash(progan, monkeypatch, tmp_path):
    published = forensynths.BENCHMARK.subsets
    assert published["progan-20x2000"].each * 20 == 40_000
    assert published["progan-4x10000"].each * 4 == 40_000
    assert benchmarks.get("genimage").subsets["adm-40000"].each == 40_000
    few = benchmarks.Subset("progan", tuple(forensynths.LSUN), 10)
    four = benchmarks.Subset("progan", ("car", "cat", "chair", "horse"), 20)
    table = dataclasses.replace(
        forensynths.BENCHMARK, subsets={"progan-20x2000": few, "progan-4x10000": four}
    )
    monkeypatch.setattr(forensynths, "BENCHMARK", table)
    found = read(progan, "forensynths")
    assert found.settings["train_subset"] == "progan-20x2000" and not found.faults
    each = Counter(r.key.rpartition("/")[0] for r in found.records)
    assert len(each) == 40 and set(each.values()) == {10}
    # The same images wherever the root is, and not the first by name.
    keys = {r.key for r in found.records}
    again = read(progan / "train", "forensynths")
    assert {f"train/{r.key}" for r in again.records} == keys
    assert keys != {f"{folder}/{i}.png" for folder in each for i in range(10)}
    found = read(progan, "forensynths", train_subset="progan-4x10000")
    assert Counter(r.label for r in found.records) == {"real": 80, "fake": 80}
    assert {r.key.split("/")[2] for r in found.records} == set(four.classes)
    everything = read(progan, "forensynths", train_subset="all")
    assert len(everything.records) == 1200


def test_a_short_training_class_is_named(progan):
    found = read(progan, "forensynths", train_subset="progan-4x10000")
    assert len(found.records) == 240
    assert found.faults[0] == (
        "progan (train): short: 30 images in train/progan/car/0_real, 10,000 wanted of "
        "each"
    )
    assert len(found.faults) == 8


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "item_jax", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_the_command_says_it_and_writes_it(tmp_path):
    top = replica(tmp_path / "u", "unifd")
    out = tmp_path / "run" / "records.jsonl"
    done = run("index", "--images", top, "--benchmark", "UniFD", "--out", out)
    assert done.returncode == 0, done.stderr
    assert len(out.read_text().splitlines()) == 10_000
    assert "dalle         test, against the real images of laion" in done.stdout
    said = json.loads(out.with_suffix(".run.json").read_text())
    assert said["real_sources"]["guided"] == "imagenet"
    assert said["index"]["benchmark"] == "unifd" and said["index"]["faults"] == []
    shutil.rmtree(top / "diffusion_datasets/dalle")
    (top / "diffusion_datasets/ldm_100/1_fake/00000.png").unlink()
    (top / "diffusion_datasets/ldm_100/1_fake/00000.png").touch()
    done = run("index", "--images", top, "--benchmark", "unifd", "--out", out)
    assert done.returncode == 1
    assert "fault: dalle (test): missing or empty" in done.stdout
    assert "ldm_100/1_fake/00000.png: the file is empty" in done.stdout
    done = run("index", "--images", top, "--benchmark", "forensynths", "--out", out)
    assert done.returncode == 2
    assert done.stderr.startswith("item-jax index: nothing of forensynths below")
    assert "Traceback" not in done.stderr
