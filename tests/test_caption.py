"""The captioners, on tiny random checkpoints of the real classes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_captioners
import torch
import transformers
import unmodified
from PIL import Image
from safetensors.torch import load_file, save_file

from item_jax import files
from item_sidecars import caption
from item_sidecars.answers import first_sentence
from item_sidecars.captioners import PRESETS, chat

ROOT = Path(__file__).parent.parent

# Of transformers itself, in the processor of PaliGemma.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The paper's in every run; the other families where time does not matter.
PAPERS = ("blip2", "blip", "llava")
OTHERS = [n for n in tiny_captioners.CAPTIONERS if n not in PAPERS]
FAMILIES = [*PAPERS, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)]
ADAPTERS = {"blip2_t5": "blip2", "gemma3": "chat", "llava_next": "chat"}
LONGER = ("llava", "llava_next", "gemma3", "florence2")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, tiny_captioners.CAPTIONERS[request.param](folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Eleven real files, one of them damaged."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(11):
        pixels = rng.integers(0, 256, (40 + 3 * i, 50, 3), dtype=np.uint8) // (
            1 + i % 3
        )
        Image.fromarray(pixels).save(root / f"{i:02d}.png")
    (root / "05.png").write_bytes((root / "05.png").read_bytes()[:300])
    return root


def arguments(images, out, model, *more):
    return caption.parser().parse_args(
        [
            *("--images", str(images), "--out", str(out), "--model", str(model)),
            *("--batch-size", "4", "--shard-size", "8", "--workers", "2", *more),
        ]
    )


def make(model, **changes):
    more = [w for k, v in changes.items() for w in (f"--{k}", v)]
    return caption.load_captioner(arguments(".", "out", model, *more))


def noise(count=4):
    rng = np.random.default_rng(1)
    shape = (count, 40, 50, 3)
    return [image // (1 + i % 3) for i, image in enumerate(
        rng.integers(0, 256, shape, dtype=np.uint8)
    )]  # fmt: skip


def _cut(name, share):
    """Damages a checkpoint as an interrupted download does."""

    def cut(model):
        data = (model / name).read_bytes()
        (model / name).write_bytes(data[: int(len(data) * share)])

    return cut


def _remove(name):
    return lambda model: (model / name).unlink()


def rows(path):
    return [row for _, row in files.read_json_lines(path)]


def test_a_folder_is_captioned(checkpoint, pictures, tmp_path):
    """Rows, settings, and the same bytes again, also after a kill in a shard."""
    name, model = checkpoint
    out = tmp_path / "out"
    assert caption.caption(arguments(pictures, out, model)) == 0
    found = rows(out / "captions.jsonl")
    assert [r["key"] for r in found] == [f"{i:02d}.png" for i in range(11)]
    bad = found.pop(5)
    assert bad["status"] == "failed" and "ImageError" in bad["error"]
    for row in found:
        assert row["status"] == "done" or "empty" in row["error"]
    said = [r["caption"] for r in found if r["caption"]]
    # Words of the vocabulary: neither prefix, prompt nor special tokens are in there.
    assert set(" ".join(said).split()) <= {*tiny_captioners.WORDS}
    assert len(set(said)) > 1
    run = json.loads((out / "run.json").read_text())
    assert run["captioner"]["adapter"] == ADAPTERS.get(name, name)
    assert run["captioner"]["dtype"] == "float32"
    assert run["captioner"]["revision"] == files.folder_digest(model)
    assert run["captioner"]["image_backend"] == "pil"
    assert run["settings"]["versions"]["transformers"] == transformers.__version__

    whole = (out / "captions.jsonl").read_bytes()
    parts = out / "parts"
    lines = (parts / "part-00000.jsonl").read_bytes().splitlines(keepends=True)
    for path in (parts / "part-00000.jsonl", parts / "part-00000.done.json"):
        path.unlink()
    (parts / "part-00000.partial").write_bytes(b"".join(lines[:5]) + lines[5][:9])
    (out / "captions.jsonl").unlink()
    assert caption.caption(arguments(pictures, out, model)) == 0
    assert (out / "captions.jsonl").read_bytes() == whole


def test_captions_follow_their_images(checkpoint):
    """The same image says the same wherever it stands in the batch."""
    _, model = checkpoint
    captioner = make(model)
    views = [captioner.prepare(image) for image in noise()]
    said = captioner.caption(views)
    assert len(said) == 4 and len(set(said)) > 1
    assert captioner.caption(views[::-1]) == said[::-1]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_what_generate_gets(checkpoint, preset, monkeypatch):
    """max_new_tokens always, since the library's 20 truncate; nothing samples."""
    name, model = checkpoint
    captioner = make(model, preset=preset)
    asked = {}
    inner = captioner._model.generate

    def spy(**options):
        asked.update(options)
        return inner(**options)

    monkeypatch.setattr(captioner._model, "generate", spy)
    captioner.caption([captioner.prepare(noise(1)[0])])
    expected = dict(PRESETS[preset])
    if name in LONGER:
        expected["max_new_tokens"] = 64
    assert {k: asked[k] for k in expected} == expected
    assert asked["do_sample"] is False
    assert captioner.settings["generate"].items() <= asked.items()


@pytest.mark.parametrize("name", ["blip", "blip2", "blip2_t5"])
def test_a_prompt_is_used_and_is_not_in_the_caption(tmp_path, name):
    model = tiny_captioners.CAPTIONERS[name](tmp_path)
    captioner = make(model)
    views = [captioner.prepare(image) for image in noise()]
    plain = captioner.caption(views)
    prompted = captioner.caption(views, "two, if: cats")  # not among its own words
    assert prompted != plain
    assert not any(":" in text for text in prompted)
    assert make(model, prompt="two, if: cats").caption(views) == prompted


def test_blip2_stops_at_the_newline(tmp_path):
    """The inner language model gets the end token of the text config."""
    model = tiny_captioners.blip2(tmp_path)
    captioner = make(model)
    head = captioner._model.language_model.get_output_embeddings()
    end = captioner._options["eos_token_id"]
    with torch.no_grad():
        head.weight.zero_()  # now every logit is 0 but that of the end
        head.weight[end] = 1
        norm = captioner._model.language_model.model.decoder.final_layer_norm
        norm.weight.zero_()
        norm.bias.fill_(1)
    ids = captioner._model.generate(
        pixel_values=torch.zeros(2, 3, 28, 28), **captioner._options
    )
    assert ids.shape[1] <= 4 + 1 + 1 and (ids[:, -1] == end).all()
    said = captioner.caption([captioner.prepare(i) for i in noise(2)])
    assert [text.strip() for text in said] == ["", ""]


def test_blip2_feeds_image_tokens_and_the_start(tmp_path, monkeypatch):
    """Exactly what transformers' own processor makes of image and prompt."""
    model = tiny_captioners.blip2(tmp_path)
    captioner = make(model)
    processor = transformers.AutoProcessor.from_pretrained(model)
    asked = {}
    monkeypatch.setattr(
        captioner._model, "generate",
        lambda **o: asked.update(o) or o["input_ids"],
    )  # fmt: skip
    image = noise(1)[0]
    captioner.caption([captioner.prepare(image)], "a cat")
    ours = asked["input_ids"][0].tolist()
    theirs = processor(Image.fromarray(image), "a cat", return_tensors="pt")
    text = theirs["input_ids"][0].tolist()
    start = captioner._model.config.text_config.bos_token_id
    assert ours[:4] == text[:4] == [captioner._model.config.image_token_index] * 4
    assert ours[4] == start
    assert ours[5:] == [t for t in text[4:] if t != start]
    torch.testing.assert_close(asked["pixel_values"], theirs["pixel_values"])
    captioner.caption([captioner.prepare(image)])
    assert asked["input_ids"].shape == (1, 5)


def test_blip2_without_an_image_token_is_refused(tmp_path):
    model = tiny_captioners.blip2(tmp_path)
    path = model / "config.json"
    config = json.loads(path.read_text())
    for name in ("image_token_index", "image_token_id"):
        config.pop(name, None)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no image_token_index.*November 2024"):
        make(model)


def test_llava_is_asked_in_the_words_of_the_paper(tmp_path, monkeypatch):
    model = tiny_captioners.llava(tmp_path)
    captioner = make(model)
    asked = {}
    monkeypatch.setattr(
        captioner._model, "generate",
        lambda **o: asked.update(o) or o["input_ids"],
    )  # fmt: skip
    captioner.caption([captioner.prepare(i) for i in noise(2)])
    ids = asked["input_ids"]
    image = captioner._model.config.image_token_index
    assert ((ids == image).sum(1) == 4).all()  # 28 / 14 patches, squared
    kept = [t for t in ids[0].tolist() if t != image]
    said = captioner._processor.tokenizer.decode(kept)
    prompt = "Please generate a one-sentence caption for the input image."
    assert said.split() == f"USER: {prompt} ASSISTANT:".split()
    assert asked["attention_mask"].all()  # equal prompts need no padding
    assert asked["pixel_values"].shape == (2, 3, 28, 28)


def test_a_generic_chat_model_takes_any_size(tmp_path):
    """`chat` shrinks huge pictures; `llava` lets its processor resize once."""
    model = tiny_captioners.llava(tmp_path)
    huge = np.zeros((20, 3000, 3), np.uint8)
    assert make(model, captioner="chat").prepare(huge).size == (1344, 9)
    assert make(model).prepare(huge).size == (3000, 20)
    generic = make(model, captioner="chat")
    assert generic.settings["adapter"] == "chat"
    views = [generic.prepare(image) for image in noise()]
    assert generic.caption(views) == make(model).caption(views)


@pytest.mark.parametrize(
    "answer, sentence",
    [
        ("A dog runs.", "A dog runs."),
        ('"A dog runs." It is brown.', "A dog runs."),
        ("A dog runs. It is brown.", "A dog runs."),
        ("\n\n  A dog\n\nIt is brown.", "A dog"),
        ("“Mr. Smith rides a 4.5 m wave.”", "Mr. Smith rides a 4.5 m wave."),
        ("**A dog**", "A dog"),
        ("", ""),
        ("\n", ""),
    ],
)
def test_one_sentence_is_kept(answer, sentence):
    assert first_sentence(answer) == sentence


def test_the_adapter_is_chosen_by_the_model(tmp_path):
    model = tiny_captioners.blip(tmp_path / "blip")
    assert make(model).settings["adapter"] == "blip"
    with pytest.raises(ValueError, match="of type 'blip'; this adapter takes blip-2"):
        make(model, captioner="blip2")
    with pytest.raises(ValueError, match="no chat template"):
        make(model, captioner="chat")
    with pytest.raises(ValueError, match="'nowhere' cannot be read.*ID@REVISION"):
        make("nowhere")


def test_the_commit_of_a_hub_model_is_recorded(tmp_path):
    """From a download cache, offline: by id, by branch, by commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    stored = tmp_path / "models--some--blip"
    tiny_captioners.blip(stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit)
    code = (
        "import caption as _\n"
        "from item_sidecars import caption\n"
        f"for name in ('some/blip', 'some/blip@main', 'some/blip@{commit}'):\n"
        "    words = ['--images', '.', '--out', 'o', '--model', name]\n"
        "    made = caption.load_captioner(caption.parser().parse_args(words))\n"
        "    print(made.settings['id'], made.settings['revision'])"
    )
    paths = os.pathsep.join((str(ROOT), str(ROOT / "scripts")))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths, "HF_HUB_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [f"some/blip {commit}"] * 3, done.stderr


def test_a_pickle_is_not_loaded(tmp_path):
    model = tiny_captioners.blip(tmp_path)
    weights = model / "model.safetensors"
    torch.save({}, model / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match="weights of model.*safetensors.*copy it aga"):
        make(model)


def _without_a_shard(model):
    tensors = sorted(load_file(model / "model.safetensors").items())
    half = len(tensors) // 2
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    shards = dict(zip(names, (dict(tensors[:half]), dict(tensors[half:]))))
    for name, own in shards.items():
        save_file(own, model / name, metadata={"format": "pt"})
    index = {key: name for name, own in shards.items() for key in own}
    text = json.dumps({"metadata": {}, "weight_map": index})
    (model / "model.safetensors.index.json").write_text(text)
    (model / "model.safetensors").unlink()
    (model / names[1]).unlink()


def _without_a_tensor(model):
    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(k for k in tensors if "vision" in k))
    save_file(tensors, path, metadata={"format": "pt"})


def _without_tokenizer(model):
    for path in model.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (_cut("model.safetensors", 0.4), "weights of model.*is cut off: "),
        (_cut("model.safetensors", 0), "weights of model.*is empty"),
        (_cut("config.json", 0.5), "cannot be read.*not a valid JSON"),
        (_without_a_shard, "weights of model.*model-00002-of-00002.safetensors"),
        (_without_a_tensor, "lacks 1 of its weights, such as '.*vision"),
        (_without_tokenizer, "knows 5 of 1030 tokens: tokenizer.json"),
        (_remove("processor_config.json"), "image processor of model.*be loaded"),
    ],
)
def test_half_a_checkpoint_is_refused(tmp_path, damage, message):
    """transformers would go on with random weights, or without a vocabulary."""
    model = tiny_captioners.blip(tmp_path)
    damage(model)
    with pytest.raises(ValueError, match=f"(?s){message}.*download or copy it again"):
        make(model)


def test_without_a_network_the_command_is_named():
    """The tests run with HF_HUB_OFFLINE=1."""
    with pytest.raises(ValueError, match="couldn't connect.*`hf download some/blip`"):
        make("some/blip")


def test_a_model_that_is_no_captioner_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="of type 'clip', which makes no text of ima"):
        make(tiny_clip[0])


def test_other_weights_are_another_model(tmp_path):
    """Same names and sizes, one byte in the middle of a small file."""
    model = tiny_captioners.blip(tmp_path)
    before = files.folder_digest(model)
    assert files.folder_digest(model) == before
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert files.folder_digest(model) != before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(checkpoint, dtype):
    """On the CPU: pixels and weights meet in one dtype."""
    captioner = make(checkpoint[1], dtype=dtype)
    assert captioner.settings["dtype"] == dtype
    assert len(captioner.caption([captioner.prepare(i) for i in noise(2)])) == 2


@pytest.mark.parametrize("batch", [1, 3])
def test_equal_to_unmodified_transformers(checkpoint, batch):
    """`AutoProcessor` and `generate`, in batches of images of several shapes."""
    name, model = checkpoint
    captioner = make(model)
    pictures = noise(3)
    pictures[1] = pictures[1][:20]
    said = captioner.caption([captioner.prepare(i) for i in pictures])
    theirs = unmodified.captions(name, model, pictures, batch)
    assert [text.strip() for text in said] == theirs


def test_help_shows_an_example():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "caption.py"), "--help"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    for word in ("torchrun --standalone", "blip2-opt-2.7b", "--perturb", "lavis-beam"):
        assert word in done.stdout


def test_the_papers_prompt_is_spelt_right():
    assert chat.PROMPT == (
        "Please generate a one-sentence caption for the input image."
    )
