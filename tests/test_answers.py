"""What of a chat model's answer is the caption, and when a model gives nonsense."""

import json
import os

import fake_sidecars
import numpy as np
import pytest
import tiny_captioners
import torch
import transformers
from PIL import Image

from item_sidecars import caption, models
from item_sidecars.answers import first_sentence, is_reasoning_open

HERE = os.path.dirname(__file__)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "answer, sentence",
    [
        # Reasoning is no caption, and one that never ends leaves nothing.
        ("<think>\nThe user wants a caption.\n</think>\n\nA dog runs.", "A dog runs."),
        ("The user wants one.\n</think>\nA dog runs.", "A dog runs."),
        ("<think>\nThe user wants a caption of a dog.", ""),
        ("<think>", ""),
        ("◁think▷So, a dog.◁/think▷A dog runs.", "A dog runs."),
        ("<thinking>A dog</thinking><answer>A dog runs.</answer>", "A dog runs."),
        # Introductions, alone on their line and before the caption.
        ("Sure! Here is a caption:\n\nA dog runs.", "A dog runs."),
        ("Sure! Here is a caption: A dog runs.", "A dog runs."),
        ("Certainly, here's a one-sentence caption for the image:\n**A dog**", "A dog"),
        ("Here is a caption for the input image: “A dog runs.”", "A dog runs."),
        ("Sure!", ""),
        ("Sure! A dog runs.", "A dog runs."),
        ("Of course.\nA dog runs.", "A dog runs."),
        ("Sure, I'd be happy to help! A dog runs.", "A dog runs."),
        # Labels and Markdown.
        ("# Caption\nA dog runs.", "A dog runs."),
        ("## A dog runs.", "A dog runs."),
        ("**Caption:** A dog runs.", "A dog runs."),
        ("**Image Caption:**\n\n*A dog runs.*", "A dog runs."),
        ("Caption: A dog runs.", "A dog runs."),
        ("- A dog runs.\n- A cat sits.", "A dog runs."),
        ("1. A dog runs.", "A dog runs."),
        ('> "A dog runs."', "A dog runs."),
        ("```\nA dog runs.\n```", "A dog runs."),
        ('"A dog runs." It is brown.', "A dog runs."),
        # A refusal names nothing in the picture.
        ("I'm sorry, but I can't help with that.", ""),
        ("As an AI model, I cannot see pictures.", ""),
        # None of the above.
        ("Okay corral with two horses.", "Okay corral with two horses."),
        ("Captions on a wall of a museum.", "Captions on a wall of a museum."),
        ("The caption reads stop.", "The caption reads stop."),
        ("Here a dog runs: fast.", "Here a dog runs: fast."),
        ("This is a dog.", "This is a dog."),
        ("Great Danes run.", "Great Danes run."),
        ("\N{DOG FACE}\nA dog.", "A dog."),
        ("...\n", ""),
    ],
)
def test_the_caption_in_an_answer(answer, sentence):
    assert first_sentence(answer) == sentence


def test_reasoning_that_the_prompt_has_opened():
    assert is_reasoning_open("<|im_start|>assistant\n<think>\n")
    assert not is_reasoning_open("assistant\n<think>\n\n</think>\n\n")
    assert not is_reasoning_open("assistant\n")
    assert first_sentence("The user wants a dog.", is_open=True) == ""
    assert first_sentence("Hm.</think>A dog.", is_open=True) == "A dog."


def make(model, *more):
    words = ["--images", ".", "--out", "o", "--model", str(model), *more]
    return caption.load_captioner(caption.parser().parse_args(words))


def noise(count):
    rng = np.random.default_rng(1)
    return list(rng.integers(0, 256, (count, 40, 50, 3), dtype=np.uint8))


def change_template(model, template):
    (model / "chat_template.jinja").unlink(missing_ok=True)
    path = model / "processor_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template", None)
    path.write_text(json.dumps(config))
    (model / "chat_template.jinja").write_text(template)


def test_a_template_that_thinks_is_asked_not_to(tmp_path):
    model = tiny_captioners.llava(tmp_path)
    assert make(model).settings["chat_template"] == {}
    change_template(
        model,
        tiny_captioners.LLAVA_TEMPLATE
        + "{% if enable_thinking is false %}two{% endif %}",
    )
    captioner = make(model)
    assert captioner.settings["chat_template"] == {"enable_thinking": False}
    inputs = captioner._inputs([captioner.prepare(noise(1)[0])], "a cat")
    said = captioner._processor.tokenizer.decode(inputs["input_ids"][0])
    assert said.endswith("ASSISTANT:two")


def test_an_answer_that_is_all_reasoning_is_empty(tmp_path):
    """The template opens the reasoning and cannot be told not to."""
    model = tiny_captioners.llava(tmp_path)
    change_template(model, tiny_captioners.LLAVA_TEMPLATE + "<think>")
    captioner = make(model)
    views = [captioner.prepare(image) for image in noise(3)]
    assert captioner.caption(views) == [""] * 3


def test_float16_only_where_a_model_was_released_in_it():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    config = transformers.LlavaConfig()
    for dtype, expected in (
        (torch.float16, "float16"),
        (torch.bfloat16, "bfloat16"),
        (torch.float32, "bfloat16"),
        (None, "bfloat16"),
    ):
        config.dtype = dtype
        config.text_config.dtype = None
        assert models.released_dtype(config) == expected
    config.text_config.dtype = torch.float16
    assert models.released_dtype(config) == "float16"
    assert models.precision("auto", gpu, "bfloat16") == "bfloat16"
    assert models.precision("auto", cpu, "bfloat16") == "float32"
    assert models.precision("float16", gpu, "bfloat16") == "float16"


@pytest.mark.parametrize(
    "name, adapter, expected",
    [
        ("blip", "auto", "float16"),
        ("blip2", "auto", "float16"),
        ("blip2_t5", "auto", "bfloat16"),
        ("llava", "auto", "float16"),
        ("llava", "chat", "bfloat16"),
        ("paligemma", "auto", "bfloat16"),
        ("florence2", "auto", "bfloat16"),
    ],
)
def test_the_dtype_on_a_gpu(name, adapter, expected, tmp_path, monkeypatch):
    """Asked of each adapter, with the CPU called a GPU: it is the table that counts."""
    from item_sidecars.captioners import _prompted, blip, blip2

    asked = []

    def gpu(dtype, device, fast="float16"):
        asked.append(models.precision(dtype, torch.device("cuda"), fast))
        return "float32"

    for module in (_prompted, blip, blip2):
        monkeypatch.setattr(module, "precision", gpu)
    model = tiny_captioners.CAPTIONERS[name](tmp_path)
    make(model, "--captioner", adapter)
    assert asked == [expected]


def test_a_model_that_does_not_fit_is_refused_with_both_numbers(tmp_path, monkeypatch):
    model = tiny_captioners.blip(tmp_path)
    size = (model / "model.safetensors").stat().st_size
    monkeypatch.setattr(models, "memory", lambda device: size - 1)
    with pytest.raises(ValueError, match=r"needs .* GiB.*in float32.*cpu has .* GiB"):
        make(model)
    assert make(model, "--dtype", "bfloat16").settings["dtype"] == "bfloat16"


def test_the_size_of_shards_on_the_hub_is_known_beforehand(tmp_path, monkeypatch):
    """Only configuration and index are in the download cache; offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    stored = tmp_path / "models--some--vlm"
    snapshot = stored / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text(snapshot.name)
    snapshot.mkdir(parents=True)
    config = transformers.BlipConfig(dtype="bfloat16")
    config.save_pretrained(snapshot)
    index = {"metadata": {"total_size": 14 * 2**30}, "weight_map": {}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    monkeypatch.setattr(models, "memory", lambda device: 16 * 2**30)
    found = models.Checkpoint("some/vlm", None, config, {})
    with pytest.raises(ValueError, match="28.0 GiB.*in float32.*cpu has 16.0 GiB"):
        found.model(transformers.BlipForConditionalGeneration, "float32", CPU)
    with pytest.raises(ValueError, match="weights of model.*`hf download some/vlm`"):
        found.model(transformers.BlipForConditionalGeneration, "bfloat16", CPU)


def test_only_the_weights_that_will_be_loaded_are_counted(tmp_path):
    """A folder may have copies, adapters, and shards beside a whole file."""

    def stored(*names, index=None):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, size in names:
            (folder / name).write_bytes(bytes(size))
        if index is not None:
            path = folder / "model.safetensors.index.json"
            path.write_text(json.dumps(index))
        return models.Checkpoint(str(folder), None, None, {})._stored_bytes()

    whole, copy = ("model.safetensors", 100), ("model.fp16.safetensors", 50)
    shards = [(f"model-0000{i}-of-00002.safetensors", 60) for i in (1, 2)]
    index = {"weight_map": {str(i): name for i, (name, _) in enumerate(shards)}}
    assert stored(whole, copy, ("open_clip_model.safetensors", 100)) == 100
    assert stored(whole, *shards, index=index) == 100
    assert stored(*shards, copy, index=index) == 120
    assert stored(*shards[:1], index=index | {"metadata": {"total_size": 118}}) == 118
    assert stored(copy) == 0


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        ("model.safetensors", b"", "is empty"),
        ("config.json", b"<!DOCTYPE html><html>", "a web page"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    ],
)
def test_a_failed_download_is_named(name, content, said, tmp_path):
    model = tiny_captioners.blip(tmp_path)
    (model / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} .*{said}.*download it again"):
        make(model)


# ------------------------------------------------------------------- decoding settings


@pytest.mark.parametrize("name", ["blip", "blip2", "llava"])
def test_what_a_checkpoint_adds_to_greedy_is_recorded(name, tmp_path, monkeypatch):
    model = tiny_captioners.CAPTIONERS[name](tmp_path)
    path = model / "generation_config.json"
    own = json.loads(path.read_text()) if path.exists() else {}
    own |= {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "temperature": 0.2}
    path.write_text(json.dumps(own))
    captioner = make(model)
    inner = {
        "blip": lambda m: m.text_decoder,
        "blip2": lambda m: m.language_model,
        "llava": lambda m: m,
    }[name](captioner._model)
    used = {}
    prepare = inner._prepare_generation_config

    def spy(*a, **o):
        config, rest = prepare(*a, **o)
        used.update(config.to_dict())
        return config, rest

    monkeypatch.setattr(inner, "_prepare_generation_config", spy)
    captioner.caption([captioner.prepare(noise(1)[0])])
    decoding = captioner.settings["decoding"]
    assert decoding["max_new_tokens"] == (64 if name == "llava" else 30)
    assert {k: used[k] for k in decoding} == decoding
    for field in ("repetition_penalty", "no_repeat_ngram_size", "do_sample"):
        assert used[field] == decoding.get(field, used[field])
    if used["repetition_penalty"] == 1.5:
        assert decoding["repetition_penalty"] == 1.5
    assert name != "llava" or used["repetition_penalty"] == 1.5


# ------------------------------------------------------------- a model gives nonsense


def pictures(folder, count, *, equal=False):
    folder.mkdir()
    for i, pixels in enumerate(noise(count)):
        Image.fromarray(pixels * 0 if equal else pixels).save(folder / f"{i:02d}.png")
    return folder


def arguments(images, out, *more):
    return caption.parser().parse_args(
        [
            *("--images", str(images), "--out", str(out), "--model", "m"),
            *("--captioner", "fake_sidecars", "--batch-size", "4", *more),
        ]
    )


@pytest.mark.parametrize(
    "said, words",
    [("", "12 different pictures have no caption"), ("!!!", "the same caption, '!!!'")],
)
def test_a_run_of_equal_captions_stops(said, words, tmp_path, monkeypatch):
    monkeypatch.setattr(fake_sidecars.Captioner, "_one", lambda *_: said)
    images, out = pictures(tmp_path / "images", 20), tmp_path / "out"
    for _ in range(2):  # resumed, it stops as well
        with pytest.raises(ValueError, match="--dtype bfloat16 or float32") as e:
            caption.caption(arguments(images, out))
        assert words in str(e.value) or "16 different" in str(e.value)
    assert not (out / "captions.jsonl").exists()
    out = tmp_path / "again"
    assert caption.caption(arguments(images, out, "--allow-equal-captions")) == 0
    assert len((out / "captions.jsonl").read_text().splitlines()) == 20


def test_few_or_equal_pictures_may_have_one_caption(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_sidecars.Captioner, "_one", lambda *_: "a dog")
    few = pictures(tmp_path / "few", caption.FEW)
    assert caption.caption(arguments(few, tmp_path / "a")) == 0
    same = pictures(tmp_path / "same", 20, equal=True)
    assert caption.caption(arguments(same, tmp_path / "b")) == 0
