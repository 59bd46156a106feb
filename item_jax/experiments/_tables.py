"""What the three tables share: every method on the columns of some benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from item_jax.choices import nearest
from item_jax.experiments.artefact import AVERAGE, Artefact, published, rows_of
from item_jax.experiments.study import Missing, Study
from item_jax.fitted import FittedMethod

OURS = "item_jax.methods."

SYSTEMS = {
    "ResNet-50": "resnet50",
    "Swin-T": "swin_t",
    "Patchfor": "patchforensics",
    "F3Net": "f3net",
    "DIRE": "dire",
    "CNNDet": "cnndet",
    "UniFD": "unifd",
    "NPR": "npr",
    "CLIP-Flow": "clip_flow",
    "VIB-Net": "vib_net",
    "ITEM": "item",
    "TIDY": "tidy",
}
"""The methods of the systems of the papers' tables, by their names there."""


def table(
    study: Study, columns: Sequence[str], figures: tuple[str, ...], source: str
) -> Artefact:
    """Fits and scores `config.paper.methods`.

    Args:
      study: of the workdir.
      columns: generators or benchmarks; those that the cache does not have are missing.
      figures: that are shown.
      source: of the published cells; see `artefact.published`.
    """
    here, missing = present(study, columns)
    own = published(source)
    missing += absent(study, [row["method"] for row in own])
    if not here:
        return Artefact([], figures=figures, missing=missing, published=own)
    results = study.evaluate(fit_all(study, missing), only=here)
    rows = rows_of(results)
    benchmark = next(iter(results["generators"])).rpartition("/")[0]
    if not benchmark:  # one benchmark in the cache: its columns go without its name
        named = {row["column"].rpartition("/")[2] for row in own}
        known = {row["column"] for row in rows} - {AVERAGE}
        own = own if known & named else []
    return Artefact(rows, figures=figures, missing=missing, published=own)


def fit_all(study: Study, missing: list[Missing]) -> dict[str, list[FittedMethod]]:
    """Fits `config.paper.methods` on the main cache.

    Args:
      study: of the workdir.
      missing: gets what a method lacks, which is left out.

    Returns:
      The fitted methods by name; of `item_jax.methods.npr:small` that is `npr:small`.
    """
    fitted = {}
    for name in study.config.paper.methods:
        lacking = study.lacks(name, study.main)
        if lacking is not None:
            missing.append(lacking)
            continue
        fitted[name.removeprefix(OURS)] = study.fit(name, name)
    return fitted


def absent(study: Study, systems: Iterable[str]) -> list[Missing]:
    """Returns what a table lacks: systems of the papers' that are not in it.

    Args:
      study: `config.paper.methods` are the rows.
      systems: their names in the papers.
    """
    chosen = study.config.paper.methods
    known = {name.removeprefix(OURS).partition(":")[0] for name in chosen}
    lacking = [s for s in dict.fromkeys(systems) if SYSTEMS[s] not in known]
    if not lacking:
        return []
    form = "{}"
    if any(name.endswith(":small") for name in chosen):  # the miniature's
        form = f"{OURS}{{}}:small"
    more = [form.format(SYSTEMS[system]) for system in lacking]
    changes = {"paper.methods": ",".join((*chosen, *more))}
    if "DIRE" in lacking:
        changes["data.error_maps"] = "MAPS"
    why = "not among paper.methods: on pixels, training takes a while"
    return [Missing(", ".join(lacking), why, (study.again(changes),))]


def present(
    study: Study, wanted: Sequence[str]
) -> tuple[tuple[str, ...], list[Missing]]:
    """Sorts generators or benchmarks by whether the main cache has test images of them.

    Returns:
      Those it has, and for each other one what is missing.
    """
    known = study.test_names()
    missing = [
        Missing(
            name,
            f"the test images in {study.main.folder} have none of it; "
            f"{nearest(name, sorted(known))}",
        )
        for name in wanted
        if name not in known
    ]
    return tuple(name for name in wanted if name in known), missing
