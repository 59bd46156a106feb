"""What a folder is: image files, tables, tar shards or a pack."""

from __future__ import annotations

from pathlib import Path

from item_jax import files
from item_jax.datasets import folder, hugging_face, webdataset
from item_jax.datasets.dataset import Dataset, RecordList


def open_folder(text: str) -> Dataset:
    """Opens a folder as what most of its images are in: files, tables or tar shards.

    Args:
      text: a path, or `gs://...` of a pack.

    Raises:
      ValueError: as `dataset.open_dataset`.
    """
    if "://" in text:
        return _pack(text)
    root = Path(text)
    found = folder.tree(root)
    pictures = len(found.sizes)
    tables = bool(found.containers.get(".parquet")) or hugging_face.is_saved(root)
    tars = bool(found.containers.get(".tar"))
    if _is_pack(root, others=bool(pictures or tables or tars)):
        return _pack(text)
    # What is there alone need not be counted.
    alone = not pictures and not (tables and tars)
    in_tables = in_tars = 0
    if tables:
        in_tables = 1 if alone else hugging_face.count(root, found)
    if tars:
        most = max(pictures, in_tables)
        in_tars = 1 if alone else webdataset.count(root, found, most)
    if not pictures and tables and not in_tables and not in_tars:
        in_tables = 1  # whose fault is told
    made: RecordList
    if in_tars > max(pictures, in_tables):
        made, kind = webdataset.WebDataset(root, found), "tar shards"
    elif in_tables > pictures:
        made, kind = hugging_face.HuggingFaceDataset(root, found), "tables"
    else:
        return _open_images(root, found)
    others = _others(
        found, pictures, skip=".tar" if kind == "tar shards" else ".parquet"
    )
    if others:
        index = made.facts["index"]
        index["notes"].insert(0, f"read as {kind}, as most images are; {others}")
    return made


def _open_images(root: Path, found: folder.Tree) -> Dataset:
    """A folder of image files, or one with `images/` and its sidecar files."""
    captions, objects = root / "captions.jsonl", root / "objects.jsonl"
    if (root / "images").is_dir() and captions.is_file():
        inside = sum(key.startswith("images/") for key in found.sizes)
        outside = len(found.sizes) - inside
        made = folder.FolderDataset(
            root / "images", captions, objects if objects.is_file() else None
        )
        others = f"not read: {outside} image files outside images/" if outside else ""
    else:
        made = folder.FolderDataset(root, index=folder.label_folders(root, found=found))
        others = _others(found, 0)
    if others:
        made.facts["index"]["notes"].append(f"read as a folder of images; {others}")
    return made


def _others(found: folder.Tree, pictures: int, *, skip: str = "") -> str:
    """What of a folder is not read because of what most of it is."""
    counts = {"image files": pictures} | {
        f"{suffix} files": len(paths)
        for suffix, paths in found.containers.items()
        if suffix != skip
    }
    shown = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
    return f"not read: {shown}" if shown else ""


def _pack(text: str) -> Dataset:
    # TensorFlow Datasets takes a second to import: only where it is needed.
    from item_jax.datasets.tfds import Pack

    return Pack(text)


def _is_pack(folder: Path, *, others: bool) -> bool:
    """Whether a folder is a pack, or what is left of one, which `Pack` explains.

    Beside other images a stray `metadata.json` or `.array_record` does not make one.
    """
    metadata, shards = folder / "metadata.json", any(folder.glob("*.array_record*"))
    if not others:
        return shards or metadata.is_file()
    try:
        schema = files.read_json(metadata).get("schema")
    except (OSError, ValueError):
        return False
    return shards and str(schema).startswith("item-pack/")
