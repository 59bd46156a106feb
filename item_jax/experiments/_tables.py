"""What the three tables share: every method on the columns of some benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from item_jax.choices import nearest
from item_jax.experiments.artefact import AVERAGE, Artefact, published, rows_of
from item_jax.experiments.study import Missing, Study
from item_jax.fitted import FittedMethod


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
        fitted[name.removeprefix("item_jax.methods.")] = study.fit(name, name)
    return fitted


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
