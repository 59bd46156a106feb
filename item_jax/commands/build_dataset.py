"""`item-jax build-dataset`."""

from __future__ import annotations

import argparse

from item_jax.commands import option, say

HELP = (
    "Pack records and their image files for TensorFlow Datasets (ArrayRecord; without "
    "TensorFlow)."
)
EXAMPLE = (
    "item-jax build-dataset --records run/records.jsonl --data-dir packed "
    "--name forensynths\n  item-jax embed --workdir run "
    "--config.data.records=packed/item/forensynths/1.0.0"
)
OPTIONS = (
    option("--records", required=True, help="records.jsonl"),
    option("--images", help="default: what records.run.json says"),
    option("--data-dir", required=True, help="a folder, or gs://bucket/folder"),
    option("--name", required=True, help="of the data set"),
    option("--shards", type=int, default=0, help="files of a split"),
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax.datasets import tfds
    from item_jax.datasets.dataset import facts, open_dataset, said

    data = open_dataset(arguments.records, arguments.images)
    for line in said(facts(data)):
        say(line)
    folder = tfds.build(
        data,
        data_dir=arguments.data_dir,
        name=arguments.name,
        shards=arguments.shards,
    )
    say(f"packed {len(data)} images; wrote {folder}")
    return 0
