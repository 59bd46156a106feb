import json

import pytest

from item_jax.files import write_json, write_json_lines
from item_jax.join import check_perturbations, join, sidecar_facts
from item_jax.records import Object, Record


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_join(tmp_path):
    index = [Record(k, "real") for k in ("a", "b", "c", "d", "e")]
    captions = write(
        tmp_path / "captions.jsonl",
        [
            {"key": "a", "caption": "a cat", "status": "ok", "error": None},
            {"key": "b", "caption": None, "status": "error", "error": "OSError"},
            {"key": "c", "caption": "a dog", "status": "done"},
            {"key": "e", "caption": "a cow", "status": "ok"},
            {"key": "zzz", "caption": "elsewhere", "status": "ok"},
        ],
    )
    cat = {"phrase": "a cat", "span": [0, 5], "box": [0, 0, 0.5, 1], "score": 0.7}
    objects = write(
        tmp_path / "objects.jsonl",
        [
            {"key": "a", "objects": [cat], "status": "ok"},
            {"key": "c", "objects": [cat | {"box": [0, 0, 0, 1]}], "status": "ok"},
            {"key": "e", "objects": [], "status": "ok"},
        ],
    )
    joined, report = join(index, captions=captions, objects=objects)
    a, b, c, d, e = joined
    assert a.caption == "a cat"
    assert a.objects == (Object("a cat", (0, 0, 0.5, 1), 0.7),)
    assert b.caption is None and "captions.jsonl, line 2: OSError" in b.error
    assert "objects.jsonl, line 2: box" in c.error and c.objects == ()
    assert d.caption is None and d.error is None
    assert e.objects == () and e.error is None
    assert (report.images, report.captioned, report.failed) == (5, 2, 2)
    assert (report.without_caption, report.unused_lines) == (1, 1)
    assert report.images == report.captioned + report.failed + report.without_caption
    assert (report.grounded, report.objects, report.without_objects) == (2, 1, 1)
    assert "5 images = 2 captioned + 2 failed" in report.text()


def test_join_refuses_a_duplicated_key(tmp_path):
    path = write(tmp_path / "captions.jsonl", [{"key": "a"}, {"key": "a"}])
    with pytest.raises(ValueError, match="'a' is on line 1 and on line 2"):
        join([Record("a")], captions=path)


def test_join_keeps_a_line_that_is_nonsense_to_its_image(tmp_path):
    objects = write(
        tmp_path / "objects.jsonl",
        [
            {"key": "a", "objects": 3},
            {"key": "b", "objects": [3]},
            {"key": "c", "objects": [{"phrase": "\ud83d", "box": [0, 0, 1, 1]}]},
            {"key": "d", "objects": [{"phrase": "x", "box": "0011"}]},
            {"key": "e", "objects": [], "status": "fine"},
            {"key": "f", "objects": [], "status": "failed", "error": "a\x1b\n\ud83d"},
        ],
    )
    captions = write(
        tmp_path / "captions.jsonl", [{"key": "a", "caption": "\ud83d", "status": "ok"}]
    )
    joined, report = join([Record(key) for key in "abcdef"], objects=objects)
    for number, (record, words) in enumerate(
        zip(
            joined,
            (
                *("are not a list: 3", "must be a JSON object", "not valid Unicode"),
                *("not a list of four numbers", "status is 'fine'; allowed: done"),
                "a\\x1b\\n\\ud83d",
            ),
        ),
        start=1,
    ):
        assert f"objects.jsonl, line {number}: " in record.error
        assert words in record.error and record.objects == ()
    assert (report.failed, report.grounded) == (6, 0)
    (joined,), _ = join([Record("a")], captions=captions)
    assert "captions.jsonl, line 1: caption of 'a' is not valid Unicode" in joined.error


def test_the_report_of_a_join(tmp_path):
    captions, objects = tmp_path / "c.jsonl", tmp_path / "o.jsonl"
    things = [
        {"phrase": "a dog", "box": [0, 0, 1, 1], "score": s} for s in (0.9, 0.3, 0.1)
    ]
    write_json_lines(
        captions,
        [
            {"key": "a", "caption": "a dog runs", "status": "ok"},
            {"key": "b", "caption": "a very small dog runs", "status": "ok"},
            {"key": "c", "caption": None, "status": "error", "error": "damaged"},
            {"key": "d", "caption": "a cat", "status": "ok"},
        ],
    )
    write_json_lines(
        objects,
        [
            {"key": "a", "objects": things, "status": "ok"},
            {"key": "b", "objects": things[2:], "status": "ok"},
            {"key": "c", "objects": [], "status": "skipped", "error": "no caption"},
            {"key": "zzz", "objects": [], "status": "ok"},
        ],
    )
    index = [Record(k) for k in "abcde"]
    joined, report = join(index, captions=captions, objects=objects)
    assert (report.captioned, report.failed, report.without_caption) == (3, 1, 1)
    assert (report.words, report.shortest, report.longest) == (10, 2, 5)
    assert (report.grounded, report.not_grounded, report.unused_lines) == (2, 2, 1)
    assert (report.objects, report.sure) == (4, 2)
    assert (report.without_objects, report.without_sure) == (0, 1)
    assert report.text().splitlines() == [
        "5 images = 3 captioned + 1 failed in a sidecar + 1 without a caption",
        "captions of 3.3 words on average, 2 to 5",
        "2 grounded, 2 not; objects an image: 2.00 candidates, 1.00 with a score of "
        "0.3 or more (default); 0.0% and 50.0% of the grounded images have none",
        "1 sidecar lines belong to no image here",
    ]
    assert "damaged" in joined[2].error and "captions" not in joined[2].key


def test_both_vocabularies_of_status_are_read(tmp_path):
    rows = [
        {"key": k, "caption": "a dog", "status": status, "error": "why"}
        for k, status in zip("abcde", ("done", "ok", "failed", "error", "skipped"))
    ]
    captions = write(tmp_path / "captions.jsonl", rows)
    joined, report = join([Record(k) for k in "abcde"], captions=captions)
    assert (report.captioned, report.failed) == (2, 3)
    assert [r.error and r.error.split(": ")[1] for r in joined] == [
        *(None, None, "why", "why", "why")
    ]


def test_captions_given_as_objects_are_refused(tmp_path):
    """They once counted as objects that nobody found."""
    captions = write(tmp_path / "c.jsonl", [{"key": "a", "caption": "x"}, {"key": "b"}])
    objects = write(tmp_path / "o.jsonl", [{"key": "a", "objects": []}])
    neither = write(tmp_path / "n.jsonl", [{"key": "a", "text": "x"}])
    failed = write(tmp_path / "f.jsonl", [{"key": "a", "status": "failed"}])
    with pytest.raises(
        ValueError, match="c.jsonl: no line has 'objects'; .* pass it as --captions"
    ):
        join([Record("a")], objects=captions)
    with pytest.raises(
        ValueError, match="o.jsonl: no line has 'caption'; .* pass it as --objects"
    ):
        join([Record("a")], captions=objects)
    with pytest.raises(ValueError, match="n.jsonl: .*its lines have key, text"):
        join([Record("a")], captions=neither)
    join([Record("a")], captions=failed, objects=failed)  # nothing to tell by


def test_the_report_without_objects(tmp_path):
    captions = write(tmp_path / "c.jsonl", [{"key": "a", "caption": "x"}])
    _, report = join([Record("a")], captions=captions)
    assert report.text().splitlines()[-1] == "no objects file"
    objects = write(tmp_path / "o.jsonl", [{"key": "a", "status": "failed"}])
    _, report = join([Record("a")], objects=objects)
    assert "0 grounded, 0 not" in report.text()  # and no shares of nothing


def test_the_threshold_of_the_report(tmp_path):
    thing = {"phrase": "a dog", "box": [0, 0, 1, 1], "score": 0.4}
    objects = write(tmp_path / "objects.jsonl", [{"key": "a", "objects": [thing]}])
    write_json(tmp_path / "run.json", {"grounder": {"id": "glip"}})

    def said(**options):
        _, report = join([Record("a")], objects=objects, **options)
        return report.sure, report.text()

    sure, text = said()
    assert sure == 1 and "0.3 or more (default)" in text
    grounder = {"id": "glip", "reader_threshold": 0.5}
    write_json(tmp_path / "run.json", {"grounder": grounder})
    sure, text = said()
    assert sure == 0 and "0.5 or more (the grounder's own)" in text
    sure, text = said(threshold=0.4)
    assert sure == 1 and "0.4 or more (given)" in text
    with pytest.raises(ValueError, match="threshold is 2; allowed: 0 to 1"):
        said(threshold=2)
    for wrong, words in (("x", "expected int or float"), (7, "is 7; allowed: 0 to 1")):
        grounder["reader_threshold"] = wrong
        write_json(tmp_path / "run.json", {"grounder": grounder})
        with pytest.raises(ValueError, match=f"reader_threshold.*{words}"):
            said()


def test_what_is_known_of_a_sidecar(tmp_path):
    path = tmp_path / "captions.jsonl"
    assert sidecar_facts(None, "captioner") is None
    assert sidecar_facts(path, "captioner") == {
        "id": "unknown: no run.json beside the file"
    }
    captioner = {"id": "blip", "revision": "abc", "prompt": None}
    write_json(
        tmp_path / "run.json",
        {
            "captioner": captioner,
            "settings": {"perturbation": "jpeg:2"},
            "fingerprint": "12",
        },
    )
    assert sidecar_facts(path, "captioner") == captioner | {
        "perturbation": "jpeg:2",
        "fingerprint": "12",
    }
    assert sidecar_facts(path, "grounder")["id"].startswith("unknown: run.json")
    write_json(tmp_path / "captions.run.json", {"captioner": {"seed": 2}})  # is nearer
    assert sidecar_facts(path, "captioner") == {
        **{"id": "unnamed", "seed": 2},
        **{"perturbation": "none", "fingerprint": None},
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "run.json: expected a JSON object"),
        ("{", "run.json: not JSON"),
        ('{"captioner": "blip"}', "run.json: 'captioner' is 'blip'; expected dict"),
        ('{"captioner": {"id": 3}}', "run.json: 'id' is 3; expected str"),
        ('{"captioner": {}, "settings": []}', r"'settings' is \[\]; expected dict"),
        (
            '{"captioner": {}, "settings": {"perturbation": 2}}',
            "'perturbation' is 2; expected str",
        ),
        ('{"captioner": {}, "fingerprint": 2}', "'fingerprint' is 2; expected str"),
    ],
)
def test_a_damaged_run_json_is_named(tmp_path, content, words):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        sidecar_facts(tmp_path / "captions.jsonl", "captioner")


def test_captions_and_objects_of_the_same_pixels():
    same, other = {"perturbation": "jpeg:2"}, {"perturbation": "none"}
    check_perturbations(same, dict(same))
    check_perturbations(same, None)
    check_perturbations(None, {"id": "unknown"})
    with pytest.raises(ValueError, match="'jpeg:2', the objects of .* 'none'"):
        check_perturbations(same, other)


def sidecar(tmp_path, keys):
    rows = [{"key": key, "caption": "a dog"} for key in keys]
    return write(tmp_path / "captions.jsonl", rows)


KEYS = [f"{label}/{i}.png" for label in ("real", "fake") for i in range(4)]


@pytest.mark.parametrize(
    ("respell", "words"),
    [
        (lambda key: f"mine/{key}", "they begin with 'mine/', the images do not"),
        (lambda key: f"a/b/{key}", "they begin with 'a/b/', the images do not"),
        (lambda key: key[5:], "the images begin with 'real/', they do not"),
        (
            lambda key: key.replace("real/", "photos/"),
            "they begin with 'photos/', the images with 'real/'",
        ),
        (lambda key: key[:-4] + ".jpg", "they end in '.jpg', the images in '.png'"),
        (lambda key: key[:-4], "they end in '', the images in '.png'"),
        (str.upper, "'REAL/0.PNG' and 'real/0.png': upper and lower case differ"),
        (
            lambda key: f"Mine/{key[:-4]}.JPG",
            "they begin with 'Mine/', the images do not; they end in '.JPG'",
        ),
    ],
)
def test_captions_that_match_no_image_say_how_their_keys_differ(
    tmp_path, respell, words
):
    keys = KEYS[:4]
    captions = sidecar(tmp_path, map(respell, keys))
    with pytest.raises(ValueError) as refused:
        join([Record(key) for key in keys], captions=captions)
    message = str(refused.value)
    assert (
        "captions.jsonl: 0 of 4 captions match one of the 4 images; the first"
        in message
    )
    assert words in message


def test_a_sidecar_of_another_folder_altogether(tmp_path):
    captions = sidecar(tmp_path, ["x.png", "y.png"])
    with pytest.raises(ValueError, match="the first are 'x.png' and 'fake/0.png'$"):
        join([Record(key) for key in KEYS], captions=captions)
    objects = write(tmp_path / "o.jsonl", [{"key": "mine/real/0.png", "objects": []}])
    with pytest.raises(ValueError, match="0 of 1 lines of objects match .* 'mine/'"):
        join([Record(key) for key in KEYS], objects=objects)
    empty = write(tmp_path / "empty.jsonl", [])
    _, report = join([Record(key) for key in KEYS], captions=empty)
    assert report.without_caption == 8  # an empty file is nobody's


def test_the_lines_that_are_left_over_say_how_they_differ(tmp_path):
    keys = [*KEYS[:4], *(f"mine/{key}" for key in KEYS[4:])]
    joined, report = join(
        [Record(key) for key in KEYS], captions=sidecar(tmp_path, keys)
    )
    assert (report.captioned, report.without_caption, report.unused_lines) == (4, 4, 4)
    assert "belong to no image here: they begin with 'mine/'" in report.text()
    # What most of them have in common, or nothing.
    keys = [*KEYS[:4], "a/fake/0.png", "x.png", "y.png"]
    _, report = join([Record(key) for key in KEYS], captions=sidecar(tmp_path, keys))
    assert report.unused_lines == 3 and report.unused_because == ""
