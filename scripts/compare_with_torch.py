"""Compares D of real photographs with that of an independent PyTorch program.

The two photographs of scikit-learn, with captions and boxes written by hand, go through
a checkpoint of the size of ViT-L/14 (random weights, which both sides read from disk).
One side is this package, from image files to D. The other is a plain Hugging Face
PyTorch program that shares no code with it. Needs torch, about 6 GB of memory, and a
minute or two on a CPU.

    python scripts/compare_with_torch.py
    python scripts/compare_with_torch.py --size ViT-B-32 --geometry clip
    python scripts/compare_with_torch.py --checkpoint openai/clip-vit-large-patch14
"""

from __future__ import annotations

import argparse
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

from item_jax import Object, Record, config, embed_records, load_towers, testing

PHOTOS = [
    Record(
        "china.jpg",
        caption="A colourful Chinese temple with a golden roof under a grey sky.",
        objects=(
            Object("a golden roof", (0.05, 0.22, 0.93, 0.52), 0.8),
            Object("a Chinese temple", (0.02, 0.10, 0.98, 0.95), 0.9),
            Object("a grey sky", (0.00, 0.00, 1.00, 0.20), 0.4),
        ),
    ),
    Record(
        "flower.jpg",
        caption="A close-up of a pink dahlia in front of a green background.",
        objects=(Object("a pink dahlia", (0.25, 0.05, 0.80, 0.95), 0.9),),
    ),
    # The same photograph without objects: D_l is then D_g.
    Record("no_objects/flower.jpg", caption="A flower."),
]


def ours(folder, towers, geometry):
    """Returns D of ITEM by this package, `[n, D]`, through the cache on disk."""
    c = config.default()
    c.views.geometry = geometry
    c.embed.batch_size = 4
    cache = embed_records(
        PHOTOS, towers, c, images=folder / "images", folder=folder / "embeddings"
    )
    counts, failed = cache.summary()
    if counts["failed"]:
        raise SystemExit(f"failed: {failed}")
    return np.concatenate([e.misalignment(c) for e, _ in cache])


def theirs(folder, checkpoint, geometry):
    """Returns D of ITEM by Hugging Face and PyTorch, one image at a time, `[n, D]`."""
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
    size = model.config.vision_config.image_size
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)

    def cover(image):
        scale = size / min(image.size)
        wide = [int(size * s / min(image.size)) for s in image.size]
        image = image.resize(wide, Image.BICUBIC) if scale != 1 else image
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return image.crop((left, top, left + size, top + size))

    def middle(image):
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        return image.crop((left, top, left + size, top + size))

    def image_emb(view):
        x = torch.from_numpy(np.array(view)).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            out = model.get_image_features(pixel_values=((x - mean) / std)[None])
        return out.pooler_output[0].numpy().astype(np.float64)

    def text_emb(text):
        ids = tokenizer(text, truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            return model.get_text_features(**ids).pooler_output[0].numpy().astype(float)

    def misalignment(view, text):
        i, t = image_emb(view), text_emb(text)
        return i / np.linalg.norm(i) - t / np.linalg.norm(t)

    rows = []
    for record in PHOTOS:
        image = Image.open(folder / "images" / record.key).convert("RGB")
        whole = middle(image) if geometry == "item" else cover(image)
        d_g = misalignment(whole, record.caption)
        locals_ = []
        for thing in record.objects:
            x1, y1, x2, y2 = np.array(thing.box) * (image.size * 2)
            box = [int(np.floor(v + 1e-6)) for v in (x1, y1)]
            box += [int(np.ceil(v - 1e-6)) for v in (x2, y2)]
            locals_.append(misalignment(cover(image.crop(box)), thing.phrase))
        rows.append(d_g + (np.mean(locals_, axis=0) if locals_ else d_g))
    return np.array(rows)


def compare(folder: Path, checkpoint, *, geometry="item", dtype="float32") -> float:
    """Returns the largest absolute difference of D; `folder` takes the files."""
    (folder / "images" / "no_objects").mkdir(parents=True)
    for name in ("china.jpg", "flower.jpg"):
        photo = (resources.files("sklearn.datasets.images") / name).read_bytes()
        (folder / "images" / name).write_bytes(photo)
    (folder / "images" / "no_objects" / "flower.jpg").write_bytes(photo)
    d = ours(folder, load_towers(checkpoint, dtype), geometry)
    reference = theirs(folder, checkpoint, geometry)
    difference = np.abs(d - reference)
    for record, row, ref, diff in zip(PHOTOS, d, reference, difference):
        print(
            f"{record.key:<24}{len(record.objects)} objects  "
            f"|D| {np.linalg.norm(row):.6f} here, "
            f"{np.linalg.norm(ref):.6f} in PyTorch, "
            f"largest difference {diff.max():.1e}"
        )
    return float(difference.max())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="ViT-L-14", choices=testing.SIZES)
    parser.add_argument("--checkpoint", help="folder or id instead of random weights")
    parser.add_argument("--geometry", default="item", choices=("item", "clip"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        checkpoint = arguments.checkpoint or folder / "clip"
        if not arguments.checkpoint:
            testing.save_random_clip(checkpoint, arguments.size)
        worst = compare(
            folder / "run",
            checkpoint,
            geometry=arguments.geometry,
            dtype=arguments.dtype,
        )
    limit = 1e-4 if arguments.dtype == "float32" else 5e-2
    print(f"largest difference of D: {worst:.1e} (limit {limit:.0e})")
    return 0 if worst <= limit else 1


if __name__ == "__main__":
    raise SystemExit(main())
