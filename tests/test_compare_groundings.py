"""Two grounders compared."""

import json

import pytest

import compare_groundings
from item_jax.files import write_json_lines


def test_groundings_are_compared_phrase_by_phrase(tmp_path, capsys):
    def thing(span, box, score):
        return {"phrase": "x", "span": span, "box": box, "score": score}

    spans = [[0, 1], [2, 3], [4, 5], [6, 7]]
    phrases = [{"phrase": "x", "span": s} for s in spans]
    left, right = [0, 0, 0.5, 1], [0.5, 0, 1, 1]
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    failed = {"key": "bad", "phrases": [], "objects": [], "status": "failed"}
    write_json_lines(
        a,
        [
            {
                "key": "1",
                "phrases": phrases,
                "objects": [
                    thing(spans[0], left, 0.9),
                    thing(spans[0], right, 0.4),  # not the best
                    thing(spans[1], left, 0.9),
                    thing(spans[2], left, 0.6),
                    thing(spans[3], left, 0.4),  # below the threshold of a
                ],
                "status": "ok",
            },
            {"key": "only a", "phrases": phrases[:1], "objects": []},
            failed,
        ],
    )
    write_json_lines(
        b,
        [
            {
                "key": "1",
                "phrases": phrases,
                "objects": [
                    thing(spans[0], [0, 0, 0.5, 0.8], 0.4),
                    thing(spans[1], right, 0.4),
                ],
                "status": "ok",
            },
            failed,
        ],
    )
    out = tmp_path / "out.json"
    words = [str(a), str(b), "--threshold-a", "0.5", "--json", str(out)]
    arguments = compare_groundings.parser().parse_args(words)
    assert compare_groundings.compare_files(arguments) == 0
    result = json.loads(out.read_text())
    assert result["iou_mean"] == pytest.approx(0.4)
    assert {k: v for k, v in result.items() if not k.startswith("iou")} == {
        **{"images": 1, "phrases": 4, "both": 2, "agree": 1, "only_a": 1},
        **{"only_b": 0, "neither": 1, "agreement": 0.5, "unmatched": 1},
    }
    assert "agreement 50.0%" in capsys.readouterr().out
    write_json_lines(b, [{"key": "1", "phrases": [{"phrase": "x"}], "objects": []}])
    with pytest.raises(ValueError, match="line 1: 'span' is missing"):
        compare_groundings.compare_files(arguments)
    assert compare_groundings.main(words) == 2


@pytest.mark.parametrize(
    "line, words",
    [
        ("[]", "expected a JSON object"),
        ('{"key": "1"}', "'phrases' is missing"),
        ('{"key": 1, "phrases": []}', "'key' is 1"),
        ('{"key": "1", "phrases": [3], "objects": []}', "'span' is missing"),
        ('{"key": "1", "phrases": [{"span": [0]}], "objects": []}', r"'span' is \[0\]"),
        ('{"key": "1", "phrases": [], "objects": [{"span": [0, 1]}]}', "phrase"),
        ('{"key": "1", "status": "okay"}', "unknown status 'okay'"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, words, capsys):
    """E4, E7."""
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    assert compare_groundings.main([str(path), str(path)]) == 2
    with pytest.raises(ValueError, match=f"a.jsonl, line 1: .*{words}"):
        compare_groundings.best_boxes(path, 0.3)
    assert "line 1" in capsys.readouterr().err


def test_files_of_an_older_version_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    phrases = [{"phrase": "x", "span": [0, 1]}]
    rows = [
        {"key": key, "phrases": phrases, "objects": [], "status": status}
        for key, status in (("1", "ok"), ("2", "error"), ("3", "done"), ("4", "failed"))
    ]
    write_json_lines(path, rows)
    assert [key for key, *_ in compare_groundings.best_boxes(path, 0.3)] == ["1", "3"]
