"""Fig. 7 of ITEM: other captioners, in training and test, or in the test alone."""

from __future__ import annotations

from item_jax.datasets.dataset import facts, open_dataset
from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Missing, Need, Study, slug

TITLE = "AP of ITEM with other captioners (ITEM, Fig. 7)"


def needs(study: Study) -> list[Need]:
    found = []
    for source in study.config.paper.captioners:
        captioner = facts(open_dataset(source))["captioner"]
        if captioner is None:
            raise ValueError(f"paper.captioners: {source!r} does not say its captioner")
        found.append(
            Need(
                f"images with the captions of {captioner['id']}",
                f"captioner-{slug(captioner['id'])}",
                {"captioner.id": captioner["id"]},
                (f"--config.data.records={source}",),
                free=("captioner", "grounder"),
            )
        )
    return found


def run(study: Study) -> Artefact:
    c = study.config.paper
    only, missing = _tables.present(study, (*c.columns, *c.columns_3))
    if not only:
        return Artefact([], missing=missing)
    item = study.fit("item")
    own = (study.main.embedding["captioner"] or {"id": "an unknown captioner"})["id"]
    rows = _tables.compared(study, {own: item}, only)
    for need in needs(study):
        cache = study.find(need)
        if isinstance(cache, Missing):
            missing.append(cache)
            continue
        other = need.changes["captioner.id"]
        again = study.fit(f"item {need.name}", cache=cache)
        rows += _tables.compared(study, {other: again}, only, cache=cache)
        transferred = {f"{own}, tested with {other}": item}
        varied = (*need.changes, *need.free)
        rows += _tables.compared(study, transferred, only, cache=cache, varied=varied)
    if not c.captioners:
        missing.append(
            Missing(
                "captions of other captioners, in the paper BLIP and LLaVA",
                "--config.paper.captioners names no data set",
                (
                    "python scripts/caption.py --model llava-hf/llava-1.5-7b-hf "
                    "--images ... --out A",
                    "python scripts/ground.py --captions A/... --images ... --out B",
                    "item-jax index --captions A/... --objects B/... --out R.jsonl",
                ),
            )
        )
    notes = _tables.only_one(rows, "captioners")
    return Artefact(rows, missing=missing, notes=notes)


draw = drawing.dots
