import dataclasses

import numpy as np
import pytest

import random_clip
from item_jax import ItemDetector, images, plots, views
from item_jax.embed import embed_records
from item_jax.evaluate import score
from item_jax.records import Record
from item_jax.towers.load import load_towers
from item_jax.train import train_heads


@pytest.fixture(scope="module")
def trained(photos, towers, tmp_path_factory):
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads = 10, 2
    c.train.epochs = 5
    root, records = photos
    folder = tmp_path_factory.mktemp("trained")
    cache = embed_records(records, towers, c, images=root, folder=folder / "e")
    train_heads(cache, c, workdir=folder)
    return cache, folder / "head"


def test_predictions_are_the_evaluations_scores(trained, photos):
    """The path through a detector is the path through the cache."""
    cache, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)  # finds its towers by itself
    predictions = detector.predict(records, images=root)
    expected = np.concatenate([score(detector.head, e) for e, _ in cache.shards()])
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
    with pytest.raises(ValueError, match="gone.jpg: image: "):
        detector.explain(odd[0], images=root)


def test_evidence_is_the_score_without_the_part(trained, photos):
    _, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)
    for record in records[:4]:  # 0 to 3 objects
        e = detector.explain(record, images=root)
        assert e.prediction == detector.predict([record], images=root)[0]
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
    e = ItemDetector.from_pretrained(folder).explain(records[3], images=root)
    for weight, expected in (
        ("w1", e.p_fake_without_global),
        ("w2", e.p_fake_without_objects),
    ):
        detector = ItemDetector.from_pretrained(folder)
        detector.head.config["misalignment"][weight] = 0.0
        (p,) = detector.predict([records[3]], images=root)
        assert p.p_fake == pytest.approx(expected, abs=1e-5)


def test_the_evidence_is_drawn(trained, photos):
    _, folder = trained
    root, records = photos
    explanation = ItemDetector.from_pretrained(folder).explain(records[2], images=root)
    figure = plots.evidence(images.read_image(root, records[2].key), explanation)
    labels = [t.get_text() for t in figure.axes[1].get_yticklabels()]
    assert len(figure.axes[0].patches) == 2
    assert labels[0] == "as it is" and labels[3].startswith("without thing 1 (cos")


def test_saved_again(trained, photos, tmp_path):
    _, folder = trained
    root, records = photos
    detector = ItemDetector.from_pretrained(folder)
    detector.save_pretrained(tmp_path)
    again = ItemDetector.from_pretrained(tmp_path, towers=detector.towers)
    assert again.predict(records, images=root) == detector.predict(records, images=root)


def test_towers_that_do_not_fit_are_refused(trained, tmp_path):
    _, folder = trained
    random_clip.save_random_clip(tmp_path / "other", "tiny", seed=1)
    with pytest.raises(ValueError, match="checkpoint_sha256: the head has"):
        ItemDetector.from_pretrained(folder, towers=tmp_path / "other")
    towers = load_towers(tmp_path / "other")
    towers.config = dataclasses.replace(towers.config, embed_dim=768)
    with pytest.raises(ValueError, match="width 32 .*found width 768"):
        ItemDetector.from_pretrained(folder, towers=towers)
    with pytest.raises(ValueError, match="no folder, no repository id"):
        ItemDetector.from_pretrained(tmp_path / "nowhere")
