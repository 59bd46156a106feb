"""Fig. 4 of ITEM: noise, blur and JPEG at three severities each.

The papers do not say whether captions and boxes are made again of the perturbed image.
Both are computed: with the captions of the clean images ("kept"), and with those of
`config.paper.perturbed`, data sets whose sidecars saw the perturbed pixels.
"""

from __future__ import annotations

from item_jax import perturb
from item_jax.datasets.dataset import facts, open_dataset
from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import AVERAGE, Artefact, Row
from item_jax.experiments.study import Missing, Need, Study, slug

TITLE = "AP on perturbed images, methods trained on clean ones (ITEM, Fig. 4)"

KINDS = ("noise", "blur", "jpeg")
SEVERITIES = (1, 2, 3)


def _need(study: Study, name: str, severity: int) -> Need:
    split = study.config.evaluate.split
    return Need(
        f"test images perturbed by {perturb.label(name, severity)}, captions kept",
        f"{slug(name)}-{severity}",
        {"perturb.name": name, "perturb.severity": severity},
        (
            *(("--split", split) if split else ()),
            f"--config.perturb.name={name}",
            f"--config.perturb.severity={severity}",
        ),
    )


def _recaptioned(study: Study) -> list[Need]:
    found = []
    for source in study.config.paper.perturbed:
        label = (facts(open_dataset(source))["captioner"] or {}).get("perturbation")
        if not label or label == "none":
            raise ValueError(
                f"paper.perturbed: the captions of {source!r} were made of clean images"
            )
        name, severity = label.rsplit(":", 1)
        need = _need(study, name, int(severity))
        found.append(
            Need(
                f"test images perturbed by {label}, captions made of them",
                f"{need.name}-recaptioned",
                {**need.changes, "captioner.perturbation": label},
                (*need.words, f"--config.data.records={source}"),
                free=("captioner", "grounder"),
            )
        )
    return found


def needs(study: Study) -> list[Need]:
    kept = [_need(study, name, severity) for name in KINDS for severity in SEVERITIES]
    return kept + _recaptioned(study)


def run(study: Study) -> Artefact:
    only, missing = _tables.present(study, study.config.paper.robustness)
    rows: list[Row] = []
    if only:
        fitted = _tables.fit_all(study, missing)
        rows += _tables.compared(
            study, fitted, only, condition="clean", captions="of the same images"
        )
        for need in needs(study):
            cache = study.find(need)
            if isinstance(cache, Missing):
                missing.append(cache)
                continue
            lacking = {
                name: study.lacks(m[0].name, cache) for name, m in fitted.items()
            }
            missing += [found for found in lacking.values() if found is not None]
            able = {name: m for name, m in fitted.items() if lacking[name] is None}
            again = "captioner.perturbation" in need.changes
            label = perturb.label(**cache.embedding["perturb"])
            rows += _tables.compared(
                study,
                able,
                only,
                cache=cache,
                varied=(*need.changes, *need.free),
                condition=f"{label}, recaptioned" if again else label,
                captions="of the same images" if again else "kept",
            )
    if not study.config.paper.perturbed:
        missing.append(
            Missing(
                "captions made of perturbed images",
                "--config.paper.perturbed names no data set",
                (
                    "python scripts/caption.py --perturb noise:1 --images ... --out A",
                    "python scripts/ground.py --captions A/... --images ... --out B",
                    "item-jax index --captions A/... --objects B/... --out R.jsonl",
                ),
            )
        )
    average = [row for row in rows if row["column"] == AVERAGE]
    notes = [f"severities 1, 2, 3 of {kind}: {values(kind)}" for kind in KINDS]
    return Artefact(average, columns_by="condition", missing=missing, notes=notes)


def values(kind: str) -> str:
    """Returns what the severities of a perturbation are, with the unit."""
    shown = ", ".join(f"{value:g}" for value in perturb.SEVERITIES[kind])
    return f"{drawing.UNITS[kind]} {shown}"


draw = drawing.severities
