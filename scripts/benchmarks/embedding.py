"""The whole ITEM embedding of captioned images with 0 to 8 objects, 3 on average.

Ours against the straightforward PyTorch program, which per batch of images decodes and
crops, runs all views through the image tower, and pads captions and phrases to 77
tokens.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from benchmarks.race import check_equal, race
from item_jax import config as config_lib
from item_jax import images, pipeline, testing
from item_jax.datasets.dataset import RecordList
from item_jax.embed import embed_images
from item_jax.records import Object, Record
from item_jax.towers.towers import load_towers
from item_jax.views import global_view, object_view

WORDS = "a small brown dog on the wet beach beside an old wooden boat at dusk".split()


def make_records(image_root: Path, count: int) -> list[Record]:
    """Writes JPEGs of 400 x 300 and returns their records, 3 objects on average."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(count):
        key = f"{i:05d}.jpg"
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((400, 300), 3).save(image_root / key, quality=90)
        objects = []
        for j in range(rng.binomial(8, 3 / 8)):
            x, y = rng.uniform(0, 0.6, 2)
            phrase = " ".join(rng.choice(WORDS, 3))
            objects.append(Object(phrase, (x, y, x + 0.3, y + 0.4), 0.9 - 0.01 * j))
        caption = " ".join(rng.choice(WORDS, rng.integers(8, 16)))
        records.append(Record(key, "real", caption=caption, objects=tuple(objects)))
    return records


def save_word_tokenizer(folder) -> None:
    """Writes a tokenizer with one token per word of `WORDS`, about as in CLIP's own."""
    from transformers import CLIPTokenizer

    folder = Path(folder)
    pieces, merges = [], []
    for word in sorted(set(WORDS)):
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
            pieces.append(parts[0])
    letters = [c + end for c in map(chr, range(97, 123)) for end in ("", "</w>")]
    vocab = {t: i for i, t in enumerate(dict.fromkeys([*letters, *pieces]))}
    vocab |= {f"unused{i}": i for i in range(len(vocab), testing.BOS)}
    vocab |= {
        "<|startoftext|>": testing.BOS,
        "<|endoftext|>": testing.EOS,
    }
    merges = list(dict.fromkeys(merges))
    CLIPTokenizer(vocab=vocab, merges=merges).save_pretrained(folder)


def run(arguments):
    """Yields one row per size."""
    import torch
    from transformers import CLIPModel

    from benchmarks.towers import CPU_BATCH

    gpu = jax.default_backend() == "gpu"
    device = "cuda" if gpu else "cpu"
    torch_dtype = getattr(torch, arguments.dtype)
    sizes = [s for s in arguments.sizes if s != "ViT-B-16"]
    for size in sizes:
        count = 4096 if gpu else {"ViT-B-32": 48}.get(size, 6)
        count = 8 if arguments.quick else count
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            records = make_records(root, count)
            testing.save_random_clip(root / "clip", size)
            save_word_tokenizer(root / "clip")
            model = CLIPModel.from_pretrained(root / "clip").eval()
            model = model.to(device, torch_dtype)
            towers = load_towers(root / "clip", arguments.dtype)
            c = config_lib.default()
            c.embed.threads = 16 if gpu else 2
            c.embed.batch_size = 512 if gpu else CPU_BATCH[size]
            c.embed.text_batch_size = 512 if gpu else 32

            def ours(records=records, root=root, towers=towers, c=c):
                dataset = RecordList(records, root)
                loaded = pipeline.stream(
                    dataset, config=c, image_size=towers.image_size
                )
                return embed_images(loaded, towers, c)[0]

            peer = _straightforward(
                torch, model, towers, records, root, c, device, torch_dtype
            )
            mine, theirs = ours(), peer()
            mine_views = np.concatenate([mine.image_emb, mine.object_emb])
            mine_texts = np.concatenate([mine.text_emb, mine.phrase_emb])
            check_equal("torch, views", mine_views, theirs[0], arguments.dtype)
            check_equal("torch, texts", mine_texts, theirs[1], arguments.dtype)
            result = race({"ours": ours, "torch": peer}, arguments.rounds)
            views = count + len(mine.object_emb)
            yield {
                "towers": size,
                "images": count,
                "objects an image": len(mine.object_emb) / count,
                "dtype": arguments.dtype,
                "ours img/s": count / result["ours"]["seconds"],
                "ours views/s": views / result["ours"]["seconds"],
                "spread": result["ours"]["spread"],
                "torch img/s": count / result["torch"]["seconds"],
                "x torch": result["torch"]["ratio"],
            }
        del model, towers


def _straightforward(torch, model, towers, records, image_root, c, device, dtype):
    """Returns the PyTorch program one would write; it decodes in threads, as ours."""
    size, config = towers.image_size, towers.config
    # In images: about as many views at once as ours, or more.
    batch = 128 if device == "cuda" else 8
    mean, std = (
        torch.tensor(v, device=device).view(1, 3, 1, 1)
        for v in (config.image_mean, config.image_std)
    )

    def views_of(record):
        image = images.read_image(image_root, record.key)
        crops = [object_view(image, o.box, size) for o in record.objects]
        return [global_view(image, size), *crops]

    def program():
        wholes, parts, captions, phrases = [], [], [], []
        with ThreadPoolExecutor(c.embed.threads) as pool, torch.inference_mode():
            decoded = pool.map(views_of, records)
            for start in range(0, len(records), batch):
                chunk = records[start : start + batch]
                sets = [next(decoded) for _ in chunk]
                x = torch.from_numpy(np.stack([v for s in sets for v in s])).to(device)
                x = (x.permute(0, 3, 1, 2).float() / 255 - mean) / std
                out = model.get_image_features(pixel_values=x.to(dtype)).pooler_output
                out = out.float().cpu().numpy()
                n = 0
                for s in sets:
                    wholes.append(out[n])
                    parts.extend(out[n + 1 : n + len(s)])
                    n += len(s)
                texts = [r.caption for r in chunk]
                texts += [o.phrase for r in chunk for o in r.objects]
                ids = towers.tokenizer(
                    texts,
                    padding="max_length",
                    truncation=True,
                    max_length=77,
                    return_tensors="pt",
                ).to(device)
                out = model.get_text_features(**ids).pooler_output.float().cpu().numpy()
                captions.extend(out[: len(chunk)])
                phrases.extend(out[len(chunk) :])
        return np.stack(wholes + parts), np.stack(captions + phrases)

    return program
