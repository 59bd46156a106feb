import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from item_jax import ItemDetector, evidence, images, plots, testing, views
from item_jax.embed import embed_records
from item_jax.evidence import Explanation, ObjectEvidence, Prediction
from item_jax.records import Object, Record
from item_jax.towers.towers import Towers, load_towers
from item_jax.train import train


@pytest.fixture(scope="module")
def trained(photos, towers, tmp_path_factory):
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads = 10, 2
    c.train.epochs = 5
    root, records = photos
    folder = tmp_path_factory.mktemp("trained")
    cache = embed_records(records, towers, c, images=root, folder=folder / "e")
    train(cache, c, workdir=folder)
    return cache, folder / "head"


def test_predictions_are_the_evaluations_scores(trained, photos):
    """The path through a detector is the path through the cache."""
    cache, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)  # finds its towers by itself
    predictions = detector.predict(records, images=root)
    expected = np.concatenate([detector.method.score(e) for e, _ in cache])
    assert [p.key for p in predictions] == [r.key for r in records]
    np.testing.assert_allclose([p.p_fake for p in predictions], expected, atol=1e-5)
    for p, record in zip(predictions, records):
        assert p.status == "done" and p.error is None
        assert p.verdict == ("fake" if p.p_fake > 0.5 else "real")
        assert -1 <= p.cosine <= 1
        assert p.objects == record.objects


def test_failures_keep_their_place(trained, photos):
    _, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)
    odd = [
        Record("gone.jpg", caption="x"),
        records[0],
        dataclasses.replace(records[1], caption=" "),
    ]
    gone, good, silent = detector.predict(odd, images=root)
    assert gone.status == silent.status == "failed" and good.status == "done"
    assert gone.p_fake is None and gone.error.startswith("image: ")
    assert silent.error == "caption: the record has none"
    assert detector.predict([], images=root) == []
    assert detector.explain([], images=root) == []
    gone, good, silent = detector.explain(odd, images=root)
    assert gone.prediction.error.startswith("image: ") and gone.objects == ()
    assert gone.p_fake_without_global is None
    (alone,) = detector.predict(records[0], images=root)
    assert good.prediction.p_fake == pytest.approx(alone.p_fake, abs=1e-5)
    with pytest.raises(ValueError, match="nothing to draw: image: "):
        plots.evidence(images.read_image(root, records[0].key), gone)


def test_evidence_is_the_score_without_the_part(trained, photos):
    _, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)
    for record, e in zip(records, detector.explain(records[:4], images=root)):
        (alone,) = detector.predict([record], images=root)
        assert e.prediction.p_fake == pytest.approx(alone.p_fake, abs=1e-5)
        assert e.prediction.objects == alone.objects
        assert len(e.objects) == len(record.objects)
        for i, entry in enumerate(e.objects):
            assert entry.object == record.objects[i]
            others = record.objects[:i] + record.objects[i + 1 :]
            without = dataclasses.replace(record, objects=others)
            (expected,) = detector.predict([without], images=root)
            assert entry.p_fake_without == pytest.approx(expected.p_fake, abs=1e-5)
            image = images.read_image(root, record.key)
            view = views.object_view(image, entry.object.box, 32)
            a = detector.towers.encode_image(view[None])[0]
            b = detector.towers.encode_text([entry.object.phrase])[0]
            cos = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert entry.cosine == pytest.approx(cos, abs=1e-5)


def test_without_global_and_without_objects(trained, photos):
    _, folder = trained
    root, records = photos
    [e] = ItemDetector.from_pretrained(folder).explain(records[3], images=root)
    for weight, expected in (
        ("w1", e.p_fake_without_global),
        ("w2", e.p_fake_without_objects),
    ):
        detector = ItemDetector.from_pretrained(folder)
        detector.method.state["misalignment"][weight] = 0.0
        (p,) = detector.predict([records[3]], images=root)
        assert p.p_fake == pytest.approx(expected, abs=1e-5)


def test_the_evidence_is_drawn(trained, photos):
    _, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)
    [explanation] = detector.explain(records[2], images=root)
    image = images.read_image(root, records[2].key)
    figure = plots.evidence(image, explanation, detector.method)
    left, right = figure.axes
    labels = [t.get_text() for t in right.get_yticklabels()]
    assert len(left.patches) == 2
    assert labels[:2] == [f"without {evidence.WHOLE}", f"without {evidence.OBJECTS}"]
    assert labels[3].startswith("without 2: thing 1 (cos")
    # Each bar leads from the score to the score without the part.
    p = explanation.prediction.p_fake
    without = [
        explanation.p_fake_without_global,
        explanation.p_fake_without_objects,
        *(part.p_fake_without for part in explanation.objects),
    ]
    for bar, value in zip(right.patches, without, strict=True):
        ends = sorted((bar.get_x(), bar.get_x() + bar.get_width()))
        expected = sorted((evidence.logit(p), evidence.logit(value)))
        np.testing.assert_allclose(ends, expected, atol=1e-6)
    said = {t.get_text() for t in right.texts}
    assert {f"score {p:.3f}", "threshold 0.5"} <= said
    legend = [t.get_text() for t in right.get_legend().get_texts()]
    assert [text.split(":")[0] for text in legend] == list(evidence.EFFECTS.values())
    footer = figure.texts[-1].get_text()
    assert records[2].key in footer and "method item" in footer
    assert "toy world" not in footer
    detector.method.config["training"]["benchmarks"] = ["miniature"]
    figure = plots.evidence(image, explanation, detector.method)
    assert "toy world" in figure.texts[-1].get_text()


def test_an_effect_is_a_change_of_the_odds():
    assert evidence.effect(0.5, 0.505) == evidence.effect(0.505, 0.5) == "none"
    assert evidence.effect(0.5, 0.45) == "fake" and evidence.effect(0.45, 0.5) == "real"
    # The surest scores hardly move, their odds double.
    assert evidence.effect(0.9998, 0.9996) == "fake"
    assert evidence.effect(2e-4, 4e-4) == "real"
    assert evidence.effect(1.0, 1.0 - 1e-8) == "none"


def test_objects_are_shown_by_box_and_once():
    def part(phrase, x):
        return ObjectEvidence(Object(phrase, (x, 0.1, 0.9, 0.9)), 0.1, 0.5)

    a, b, c = part("a", 0.1), part("b", 0.2), part("c", 0.1)
    assert evidence.shown([a, b, part("a", 0.1), c]) == [a, c, b]


def test_evidence_is_coloured_and_long_phrases_stay_whole():
    phrase = "the very long phrase of a captioner that goes on and on $x^2$ " * 4
    values = {"pull to fake": 0.4, phrase.strip(): 0.9, "neither": 0.601}
    objects = [Object(p, (0.1, 0.1, 0.5, 0.5)) for p in values]
    prediction = Prediction(
        "k", 0.6, "fake", "done", None, "a caption", 0.2, tuple(objects)
    )
    explanation = Explanation(
        prediction,
        0.5,
        0.5,
        tuple(ObjectEvidence(o, 0.1, values[o.phrase]) for o in objects),
    )
    figure = plots.evidence(np.zeros((40, 60, 3), np.uint8), explanation)
    left, right = figure.axes
    found = [to_hex(p.get_edgecolor()).upper() for p in left.patches]
    assert found[:2] == [plots.COLOURS["fake"], plots.COLOURS["real"]]
    assert found[2] == plots.EFFECT_COLOURS["none"].upper()
    labels = [t.get_text() for t in right.get_yticklabels()]
    said = " ".join(labels[3].replace("\\$", "$").split())
    assert phrase.strip() in said
    # No label reaches into the picture, and no two overlap.
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in right.get_yticklabels()]
    assert min(b.x0 for b in boxes) >= left.get_window_extent().x1 - 1
    assert all(above.y0 >= below.y1 - 2 for above, below in zip(boxes, boxes[1:]))
    assert left.get_position().width * figure.get_figwidth() > 4
    # All have one box: the later ones are dashed, and no number covers another.
    numbers = sorted(t.get_window_extent().x0 for t in left.texts)
    assert len(numbers) == 3 and min(np.diff(numbers)) > 10
    assert [p.get_linestyle() == "-" for p in left.patches] == [True, False, False]


def test_saved_again(trained, photos, tmp_path):
    _, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)
    detector.save_pretrained(tmp_path)
    again = ItemDetector.from_pretrained(tmp_path, towers=detector.towers)
    assert again.predict(records, images=root) == detector.predict(records, images=root)


def test_towers_that_do_not_fit_are_refused(trained, tmp_path):
    _, folder = trained
    testing.save_random_clip(tmp_path / "other", "tiny", seed=1)
    with pytest.raises(ValueError, match="checkpoint_sha256: item has"):
        ItemDetector.from_pretrained(folder, towers=tmp_path / "other")
    towers = load_towers(tmp_path / "other")
    towers.config = dataclasses.replace(towers.config, embed_dim=768)
    with pytest.raises(ValueError, match="embed_dim: item has 32, found 768"):
        ItemDetector.from_pretrained(folder, towers=towers)
    with pytest.raises(ValueError, match="no fitted method .*there is no such folder"):
        ItemDetector.from_pretrained(tmp_path / "nowhere")


def test_paths_pictures_and_arrays_with_captions(trained, photos, monkeypatch):
    _, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)
    some = [dataclasses.replace(r, objects=()) for r in records[:3]]
    expected = [p.p_fake for p in detector.predict(some, images=root)]
    captions = [r.caption for r in some]
    paths = [root / r.key for r in some]
    pictures = [Image.open(path) for path in paths]
    arrays = [images.read_image(root, r.key) for r in some]
    for inputs in (paths, [str(p) for p in paths], pictures, arrays):
        found = detector.predict(inputs, captions=captions)
        np.testing.assert_allclose([p.p_fake for p in found], expected, atol=1e-6)
        assert [p.caption for p in found] == captions
    monkeypatch.chdir(root)
    [one] = detector.predict(some[0].key, captions=captions[0])
    assert one.key == some[0].key and one.p_fake == pytest.approx(expected[0])
    for picture in pictures:
        picture.close()


def test_wrong_inputs_say_what_to_pass(trained, photos):
    _, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)
    with pytest.raises(ValueError, match=r'captions=\["a dog on a beach"\]'):
        detector.predict("x.jpg")
    with pytest.raises(ValueError, match="2 images need as many captions, found 1"):
        detector.predict(["x.jpg", "y.jpg"], captions=["a dog"])
    with pytest.raises(ValueError, match="found int"):
        detector.predict([3], captions=["a dog"])
    with pytest.raises(ValueError, match="found both kinds"):
        detector.predict([records[0], "x.jpg"])
    with pytest.raises(ValueError, match="images=FOLDER"):
        detector.predict(records)
    with pytest.raises(ValueError, match="a record has its own caption"):
        detector.predict(records, images=root, captions=["x"])


def test_each_image_is_decoded_and_embedded_once(trained, photos, monkeypatch):
    _, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)
    decoded, embedded = [], []
    decode, encoder = images.decode, detector.towers.image_encoder

    def counted_decode(data, **options):
        decoded.append(len(data))
        return decode(data, **options)

    class Counted:
        def __init__(self, inner):
            self.inner, self.batch_size = inner, inner.batch_size

        def stream(self, batches):
            def noted():
                for batch in batches:
                    embedded.append(len(batch))
                    yield batch

            return self.inner.stream(noted())

    monkeypatch.setattr(images, "decode", counted_decode)
    monkeypatch.setattr(
        detector.towers, "image_encoder", lambda **o: Counted(encoder(**o))
    )
    detector.explain(records, images=root)
    assert len(decoded) == len(records)
    assert sum(embedded) == len(records) + sum(len(r.objects) for r in records)


def test_towers_of_somebody_elses_make(trained, photos):
    """An object with the attributes that embed.py needs, and no more."""
    _, folder = trained
    root, records = photos
    ours = ItemDetector.from_pretrained(folder)
    names = (
        *("name", "family", "dtype", "embed_dim", "image_size", "checkpoint_sha256"),
        *("image_encoder", "embed_text"),
    )

    class Theirs:
        pass

    theirs = Theirs()
    for name in names:
        setattr(theirs, name, getattr(ours.towers, name))
    assert not isinstance(theirs, Towers)
    other = ItemDetector.from_pretrained(folder, towers=theirs)
    assert other.predict(records, images=root) == ours.predict(records, images=root)


def test_a_moved_tower_is_asked_for(trained, tmp_path, tiny_clip):
    import json
    import shutil

    _, folder = trained
    shutil.copytree(folder, tmp_path / "head")
    path = tmp_path / "head/config.json"
    config = json.loads(path.read_text())
    config["embedding"]["tower"]["name"] = "/moved/away"
    path.write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="of method 'item', .*say where .--towers; in Python towers="
    ):
        ItemDetector.from_pretrained(tmp_path / "head")
    assert ItemDetector.from_pretrained(tmp_path / "head", towers=tiny_clip[0])


def test_another_dtype_than_the_trainings_is_a_warning(trained):
    _, folder = trained
    detector = ItemDetector.from_pretrained(folder, dtype="bfloat16")
    assert detector.warnings == ["dtype: item has 'float32', found 'bfloat16'"]


def test_a_verdict_does_not_load_scikit_learn(trained):
    import subprocess
    import sys

    _, folder = trained
    code = (
        "import sys, item_jax\n"
        f"item_jax.ItemDetector.from_pretrained({str(folder)!r})\n"
        "print(*(m for m in ('sklearn', 'torch', 'tensorflow_datasets', 'matplotlib') "
        "if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_a_dtype_that_the_towers_do_not_have_is_refused(trained, towers):
    _, folder = trained
    assert ItemDetector.from_pretrained(folder, towers=towers, dtype="float32")
    with pytest.raises(ValueError, match="'bfloat16', but the towers .* 'float32'"):
        ItemDetector.from_pretrained(folder, towers=towers, dtype="bfloat16")


def test_a_picture_in_hand_is_the_picture_in_its_file(trained, tmp_path):
    """Its orientation, and modes that PNG does not have."""
    _, folder = trained
    detector = ItemDetector.from_pretrained(folder)
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels.save(tmp_path / "turned.jpg", exif=turned)
    pixels.convert("CMYK").save(tmp_path / "cmyk.jpg")
    for name in ("turned.jpg", "cmyk.jpg"):
        with Image.open(tmp_path / name) as picture:
            inputs = [tmp_path / name, picture]
            a, b = detector.predict(inputs, captions=["noise"] * 2)
        assert a.p_fake == pytest.approx(b.p_fake, abs=1e-6), name
        assert a.cosine == pytest.approx(b.cosine, abs=1e-6), name
    with pytest.raises(ValueError, match=r"not float64 \[2, 3\]"):
        detector.predict([np.zeros((2, 3))], captions=["x"])
