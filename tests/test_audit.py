import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from item_jax import audit as audit_lib
from item_jax.audit import audit
from item_jax.audit_report import text
from item_jax.datasets import folder
from item_jax.datasets.dataset import RecordList
from item_jax.files import write_json
from item_jax.headers import header
from item_jax.perturb import encode_jpeg
from item_jax.records import Record, write_records


@pytest.fixture(scope="module")
def pictures():
    """The same kind of content for both labels: what differs is up to the files."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        for _ in range(80)
    ]


def save(root, pictures, label, suffix, *, generator="gan", size=(64, 64), **options):
    """Writes half of the pictures; returns the files."""
    half = pictures[::2] if label == "real" else pictures[1::2]
    target = root / generator / label
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for i, picture in enumerate(half):
        path = target / f"{i:03d}.{suffix}"
        side = size(i) if callable(size) else size
        picture.resize(side).save(path, **options)
        written.append(path)
    return written


def audited(root, **options):
    return audit(RecordList(folder.label_folders(root).records, root), **options)


def test_jpeg_reals_and_png_fakes_give_themselves_away(pictures, tmp_path):
    save(tmp_path, pictures, "real", "jpg", quality=75, size=lambda i: (70 + i, 64))
    save(tmp_path, pictures, "fake", "png")
    result = audited(tmp_path, quality=96, size=32)
    entry = result["generators"]["gan"]
    assert entry["headers"]["chance"] == 0.5
    assert entry["headers"]["all"] > 0.99
    assert entry["headers"]["format"] > 0.99 and entry["headers"]["size"] > 0.99
    assert entry["headers"]["metadata"] == pytest.approx(0.5, abs=0.05)
    # After re-encoding at a common size there is nothing left to tell.
    assert entry["neutralised"]["all"] == pytest.approx(0.5, abs=0.05)
    assert entry["real"]["formats"] == {"JPEG": 1.0}
    assert entry["real"]["quality"] == {"median": 75.0, "low": 75, "high": 75}
    assert entry["fake"]["formats"] == {"PNG": 1.0} and entry["fake"]["quality"] is None
    assert entry["fake"]["sizes"] == {"64x64": 1.0}
    warning, pixels = result["warnings"]
    # PNGs keep the noise that JPEG takes from real images.
    assert entry["pixels"]["gan"]["auc"] > 0.95
    # And re-encoding at quality 96 does not hide quality 75, as the headers do.
    assert entry["pixels_neutralised"]["gan"]["auc"] > 0.95
    assert "gan: pixel statistics without content reach AUC " in pixels
    assert "after neutralising" in pixels
    for words in (
        *("gan: headers alone reach AP 1.000 (chance 0.500)", "format, JPEG quality"),
        *("size", "real JPEG q75", "fake PNG 64x64"),
    ):
        assert words in warning
    report = text(result)
    assert warning in report and pixels in report and "80 files" in report
    assert "80 statistics of the pixels" in report
    without = audited(tmp_path, quality=96, size=32, pixels=False)
    assert without["warnings"] == [warning]
    assert "pixels" not in without["generators"]["gan"]
    assert "statistics of the pixels" not in text(without)


def test_quality_alone_does_not_neutralise_sizes(pictures, tmp_path):
    save(tmp_path, pictures, "real", "jpg", size=(80, 64))
    save(tmp_path, pictures, "fake", "png")
    result = audited(tmp_path, quality=96)
    assert result["generators"]["gan"]["neutralised"]["all"] > 0.99
    assert "still AP 1.000 after neutralising" in result["warnings"][1]
    with pytest.raises(ValueError, match="leaves JPEG and PNG as they are"):
        audited(tmp_path, size=64)


def test_files_of_one_kind_give_nothing_away(pictures, tmp_path):
    """Sizes and qualities vary, but not with the label."""
    rng = np.random.default_rng(1)
    for label in ("real", "fake"):
        for path in save(tmp_path, pictures, label, "jpg"):
            width, quality = rng.integers(60, 90), int(rng.integers(60, 96))
            with Image.open(path) as image:
                image.resize((width, 64)).save(path, quality=quality)
    result = audited(tmp_path)
    figures = result["generators"]["gan"]["headers"]
    assert all(0.3 < value < 0.7 for value in figures.values()), figures
    assert result["warnings"] == []


@pytest.mark.parametrize(
    ("group", "real", "fake"),
    [
        ("JPEG quality", {"quality": 75}, {"quality": 90}),
        ("format", {"subsampling": 0}, {"subsampling": 2}),
        ("format", {"progressive": True}, {}),
        ("size", {"size": (64, 64)}, {"size": (64, 63)}),
        ("metadata", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}, {}),
        ("metadata", {"icc_profile": b"x" * 200}, {}),
    ],
)
def test_each_header_is_found_by_name(pictures, tmp_path, group, real, fake):
    save(tmp_path, pictures, "real", "jpg", **real)
    save(tmp_path, pictures, "fake", "jpg", **fake)
    result = audited(tmp_path)
    figures = result["generators"]["gan"]["headers"]
    assert figures[group] > 0.99 and figures["all"] > 0.99
    others = set(audit_lib.FEATURES) - {group}
    assert all(figures[name] < 0.6 for name in others)
    assert f"confounded with {group}:" in result["warnings"][0]


def test_the_quality_of_a_jpeg_is_read_from_its_tables():
    picture = np.zeros((16, 16, 3), np.uint8)
    for quality in (1, 25, 50, 75, 90, 96, 100):
        assert header(encode_jpeg(picture, quality)).quality == quality
    assert header(encode_jpeg(picture, 75)).subsampling == 2


def test_one_real_set_serves_several_generators(pictures, tmp_path):
    save(tmp_path, pictures, "real", "jpg", generator="laion")
    save(tmp_path, pictures, "fake", "png", generator="ldm")
    save(tmp_path, pictures, "fake", "jpg", generator="dalle")
    index = folder.label_folders(tmp_path)
    sources = {"ldm": "laion", "dalle": "laion"}
    assert index.real_sources == sources  # the only folder of reals alone
    for facts in ({"real_sources": sources}, {"pairs": sources}, {}):
        result = audit(RecordList(index.records, tmp_path, facts))
        assert set(result["generators"]) == {"ldm", "dalle"}
    assert audit(index.records, tmp_path, real_sources=sources) == result
    figures = {n: e["headers"]["all"] for n, e in result["generators"].items()}
    assert figures == {"dalle": pytest.approx(0.5, abs=0.05), "ldm": pytest.approx(1.0)}
    assert {e["real"]["n"] for e in result["generators"].values()} == {40}


def test_pixels_are_probed_for_each_source_of_real_images(tmp_path):
    """Noise of one kind against reals of the same kind, and against smoothed ones."""
    rng = np.random.default_rng(3)

    def write(generator, label, blurred, count):
        folder_ = tmp_path / generator / label
        folder_.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            x = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
            if blurred:
                x = ((x.astype(int) + np.roll(x, 1, 0)) // 2).astype(np.uint8)
            Image.fromarray(x).save(folder_ / f"{i:02d}.png")

    write("gan", "fake", False, 40)
    write("gan", "real", False, 40)
    write("laion", "real", True, 40)
    index = folder.label_folders(tmp_path)
    sources = {"gan": "laion"}
    result = audit(index.records, tmp_path, real_sources=sources)
    probes = result["generators"]["gan"]["pixels"]
    assert set(probes) == {"gan", "laion"}
    assert probes["laion"]["auc"] > 0.99
    assert probes["gan"]["interval_95"][0] < 0.5, "nothing to tell apart"
    assert {p["n_real"] for p in probes.values()} == {40}
    (warning,) = result["warnings"]
    assert "against the real images of laion" in warning
    lines = [x for x in text(result).splitlines() if x.startswith("gan ")]
    assert [x.split()[1] for x in lines[-2:]] == ["gan", "laion"]
    # A copy would be recognised in another fold: it counts once.
    for i in range(20, 40):
        shutil.copy(tmp_path / "gan/fake/00.png", tmp_path / f"gan/fake/{i}.png")
    result = audit(index.records, tmp_path, real_sources=sources)
    assert result["generators"]["gan"]["pixels"]["gan"]["n_fake"] == 20
    # Images too small for frequencies are named.
    Image.new("RGB", (16, 64)).save(tmp_path / "gan/fake/00.png")
    result = audit(index.records, tmp_path, real_sources=sources)
    assert result["too_small"] == ["gan/fake/00.png"]


def test_an_image_that_cannot_be_decoded_is_a_failure_of_the_pixel_probe(
    pictures, tmp_path
):
    whole = save(tmp_path, pictures[:4], "real", "png")
    whole[0].write_bytes(whole[0].read_bytes()[:-200])
    assert len(audited(tmp_path)["failures"]) == 1
    assert audited(tmp_path, pixels=False)["failures"] == []


def test_copies_empty_and_damaged_files(pictures, tmp_path):
    real = save(tmp_path, pictures, "real", "png")
    fake = save(tmp_path, pictures, "fake", "png")
    shutil.copy(real[0], real[1])
    shutil.copy(real[0], fake[0])
    Image.new("RGB", (512, 512)).save(fake[1])  # GenImage has black ones
    fake[2].write_bytes(b"")
    fake[3].write_bytes(b"<html>")
    result = audited(tmp_path)
    (copies,) = result["duplicates"]
    assert len(copies) == 3 and result["crossed"] == 1
    assert result["near_empty"] == ["gan/fake/001.png"]
    assert [f["key"] for f in result["failures"]] == [
        *("gan/fake/002.png", "gan/fake/003.png")
    ]
    assert result["images"] == 80
    report = text(result)
    for words in (
        *("80 files", "78 read + 2 failed", "gan/fake/002.png: the file is empty"),
        *("2 files are copies", "1 files have both labels", "almost empty"),
    ):
        assert words in report


def test_photographs_are_not_near_empty():
    """What the limit rests on, at the lowest qualities one meets."""
    from sklearn.datasets import load_sample_image

    for name in ("china.jpg", "flower.jpg"):
        photo = load_sample_image(name)
        assert not audit_lib.near_empty(header(encode_jpeg(photo, 5)))
        small = np.asarray(Image.fromarray(photo).resize((32, 32)))  # as of CIFAKE
        assert not audit_lib.near_empty(header(encode_jpeg(small, 75)))
    for side in (32, 256, 1024):
        for grey in (0, 90, 255):
            flat = np.full((side, side, 3), grey, np.uint8)
            assert audit_lib.near_empty(header(encode_jpeg(flat, 75)))
            file = io.BytesIO()
            Image.fromarray(flat).save(file, "PNG")
            assert audit_lib.near_empty(header(file.getvalue()))


def test_too_few_to_judge(pictures, tmp_path):
    save(tmp_path, pictures[:12], "real", "jpg")
    save(tmp_path, pictures[:12], "fake", "png")
    result = audited(tmp_path)
    assert result["generators"]["gan"]["headers"] is None
    assert result["warnings"] == ["gan: 6 real and 6 fake files are too few to judge"]
    assert "gan" in text(result)


def test_a_generator_without_reals_is_named(pictures, tmp_path):
    save(tmp_path, pictures, "fake", "png", generator="sd")
    save(tmp_path, pictures, "fake", "png", generator="gan")
    save(tmp_path, pictures, "real", "png", generator="gan")
    result = audited(tmp_path)
    assert result["warnings"][:1] == [
        "sd: 40 fake files and no real ones to compare them with"
    ]
    lines = text(result).splitlines()
    (line,) = (line for line in lines if line.startswith("sd "))
    assert line.split()[:3] == ["sd", "fake", "40"]


def test_a_loop_of_links_is_a_failure(pictures, tmp_path):
    save(tmp_path, pictures[:4], "real", "png")
    save(tmp_path, pictures[:4], "fake", "png")
    (tmp_path / "gan/fake/loop.png").symlink_to(tmp_path / "gan/fake/loop.png")
    result = audited(tmp_path)
    (failure,) = result["failures"]
    assert failure["key"] == "gan/fake/loop.png"
    assert "Too many levels of symbolic links" in failure["error"]
    assert "4 read + 1 failed" in text(result)


def test_names_with_escapes_are_shown_and_not_sent(pictures, tmp_path):
    save(tmp_path, pictures[:4], "fake", "png", generator="a\x1b[31m\nred")
    (tmp_path / "a\x1b[31m\nred/fake/\x07.png").write_bytes(b"")
    report = text(audited(tmp_path))
    assert "\x1b" not in report and "\x07" not in report
    assert "a\\x1b[31m\\nred" in report and "\\x07.png" in report


def test_large_images_are_refused_by_the_limit_of_the_configuration(pictures, tmp_path):
    save(tmp_path, pictures[:4], "fake", "png")
    result = audited(tmp_path, max_pixels=64 * 64 - 1)
    assert "at most 4,095 allowed" in result["failures"][0]["error"]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "item_jax", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command(pictures, tmp_path):
    root = tmp_path / "images"
    save(root, pictures, "real", "jpg")
    save(root, pictures, "fake", "png")
    done = run("audit", root, "--json", tmp_path / "audit.json")
    assert done.returncode == 0, done.stderr
    assert "warning: gan: headers alone reach AP 1.000" in done.stdout
    assert "--config.neutralise.quality=96" in done.stdout
    said = json.loads((tmp_path / "audit.json").read_text())
    assert said["generators"]["gan"]["headers"]["all"] > 0.99
    again = ("--config.neutralise.quality=96", "--config.neutralise.size=64")
    done = run("audit", root, *again, "--json", tmp_path / "audit.json")
    said = json.loads((tmp_path / "audit.json").read_text())
    assert said["neutralise"] == {"quality": 96, "size": 64}
    assert said["generators"]["gan"]["neutralised"]["all"] == pytest.approx(
        0.5, abs=0.05
    )
    # Records instead of the names of folders, with real sources of their own.
    lines = tmp_path / "records.jsonl"
    own = [
        Record(r.key, r.label, generator="photos" if r.label == "real" else "sd")
        for r in folder.label_folders(root).records
    ]
    write_records(lines, [*own, Record("gone.png", "fake", generator="sd")])
    write_json(
        lines.with_suffix(".run.json"),
        {"real_sources": {"sd": "photos"}, "images": str(root)},
    )
    done = run("audit", root, "--records", lines)
    assert done.returncode == 1 and "failed: gone.png: no such file" in done.stdout
    assert "sd: headers alone reach AP" in done.stdout
    done = run("audit", root, "--config.neutralise.quality=200")
    assert done.returncode == 2 and "quality is 200; at most 100" in done.stderr
