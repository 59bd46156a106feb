import json

import pytest

import describe_checkpoint
from item_jax import testing


def described(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["describe_checkpoint.py", *map(str, arguments)])
    status = describe_checkpoint.main()
    lines = capsys.readouterr().out.splitlines()
    return status, dict(
        line.split(maxsplit=1) for line in lines if "output" not in line
    )


def test_a_checkpoint_that_loads(tiny_clip, monkeypatch, capsys):
    status, facts = described(monkeypatch, capsys, tiny_clip[0], "--load")
    assert status == 0
    assert facts["family"].startswith("clip_vit: CLIP with vision transformers")
    assert facts["vision.layers"] == "3" and facts["embed_dim"] == "32"
    assert facts["vision.activation"] == "quick_gelu" and facts["geometry"] == "clip"
    assert facts["tokenizer"] == "CLIPTokenizer"
    assert facts["weights"] == "model.safetensors"
    assert facts["tensors"].startswith("all there")
    assert facts["would"].split() == ["load", "yes"]


def test_a_guess_and_a_refusal(tiny_clip, tmp_path, monkeypatch, capsys):
    folder = testing.open_clip_twin(tiny_clip[0], tmp_path / "twin.openai")
    path = folder / "open_clip_config.json"
    raw = json.loads(path.read_text())
    del raw["model_cfg"]["quick_gelu"]
    path.write_text(json.dumps(raw))
    status, facts = described(monkeypatch, capsys, folder)
    assert status == 0 and "guessed true" in facts["warning"]
    raw["model_cfg"]["vision_cfg"]["sparkle"] = 1
    path.write_text(json.dumps(raw))
    status, facts = described(monkeypatch, capsys, folder)
    assert status == 1
    assert "no: " in facts["would"] and "'sparkle': 1" in facts["would"]


def test_options_that_contradict(monkeypatch, capsys):
    with pytest.raises(SystemExit) as e:
        described(monkeypatch, capsys, "RN50", "--open-clip")
    assert e.value.code == 2
