"""The model card of a fitted method: data, protocol, figures, range, limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from item_jax import tables
from item_jax.files import printable
from item_jax.records import LABELS

LIMITS = """\
A score is a hint and no evidence by itself: it depends on the generators the method was
trained on, on the captions it is given, and on how an image was resized and compressed.
It says nothing about generators that are not named above, or about edited photographs,
and must not decide about people or their work.
"""


def card(
    config: Mapping[str, Any],
    range_of: Mapping[str, Any],
    state: Mapping[str, Any],
    results: Mapping[str, Any] | None = None,
) -> str:
    """Returns the model card.

    Args:
      config: of the method, the content of its `config.json`.
      range_of: what `FittedMethod.range` returns.
      state: what of its state is not an array.
      results: the content of a `results.json` whose figures are shown: of the method in
        it that has this configuration.

    Raises:
      ValueError: if the results have no such method.
    """
    t, embedding = config["training"], config["embedding"]
    tower = embedding["tower"]
    toy = (
        "**Toy world.** It was trained on the miniature that comes with item_jax. Its "
        "verdicts on photographs mean nothing.\n\n"
        if range_of["toy_world"]
        else ""
    )
    settings = "\n".join(
        f"- {_text(name)}: `{_code(_plain(value))}`"
        for name, value in state.items()
        if value != {}
    )
    roles = "\n".join(
        f"| {role} | {_role(embedding[role])} |" for role in ("captioner", "grounder")
    )
    return f"""---
library_name: item-jax
pipeline_tag: image-classification
tags: [fake-image-detection, clip, jax]
---
# `{_code(config["method"])}`: a detector of AI-generated images

{toy}- Range: {_text(range_of["text"])}
- Seed {t["seed"]}; fake when P(fake) > {config["threshold"]}
{settings}

It is fitted with item\\_jax, which detects AI-generated images by the misalignment of
image and text ([ITEM](https://arxiv.org/abs/2511.00427)):

```python
import item_jax

detector = item_jax.ItemDetector.from_pretrained("HERE")  # this folder or repository id
detector.predict(["photo.jpg"], captions=["a dog on a beach"])
```

It needs the towers named below; `towers=` says where they are if they are not found.
Captions and boxes are best made as those of its training were.

## Data

| | |
| --- | --- |
| real images | {_number(t["real"])} |
| fake images | {_number(t["fake"])} |
| generators | {_names(t["generators"])} |
| training AUC | {_train_auc(config)} |
| benchmarks | {_names(t["benchmarks"])} |
| split | {_text(t["split"] or "all")} |
{roles}
| SHA-256 of the records | `{_code(t["records_sha256"])}` |

## Towers

`{_code(short_name(tower["name"]))}`, D = {tower["embed_dim"]}, {embedding["dtype"]}.
SHA-256 of configuration, weights and tokenizer, which is compared when they are loaded:
`{_code(tower["checkpoint_sha256"])}`

## Figures

{_figures(config, results)}
## Limits

{LIMITS}"""


def short_name(name: str) -> str:
    """Returns a repository id as it is, and of a folder's path the last part."""
    path = name.replace("\\", "/").rstrip("/")
    return path.rpartition("/")[2] if path.count("/") != 1 or path[0] in "./" else path


def _figures(config: Mapping[str, Any], results: Mapping[str, Any] | None) -> str:
    if results is None:
        return "None were given. `item-jax evaluate` makes them.\n"
    own_name = next(
        (
            name
            for name, m in results["methods"].items()
            if settings_of(m["config"]) == settings_of(config)
        ),
        None,
    )
    if own_name is None:
        raise ValueError(
            "the results are not of this method; they have "
            f"{', '.join(map(printable, results['methods']))}: run `item-jax evaluate` "
            "again"
        )
    method = results["methods"][own_name]
    shown = tables.figures_shown(results)

    def row(label: str, counts, own, ends) -> str:
        counted = (f"{counts[f'n_{k}']:,}" if counts else "" for k in LABELS)
        cells = (_percent(own.get(f), (ends or {}).get(f)) for f in shown)
        return f"| {' | '.join([label, *counted, *cells])} |"

    rows = [
        row(
            _text(name + tables.star(results, name)),
            *(own, own, own.get("interval_95")),
        )
        for name, own in method["generators"].items()
    ]
    for label, (name, counts) in tables.averages(results).items():
        rows.append(row(label, counts, method[name], method[f"{name}_interval_95"]))
    base = tables.chance(results)
    if base:
        rows.append(row(base[0], None, base[1], None))
    head = ["generator", *LABELS, *(tables.SHOWN[figure] for figure in shown)]
    protocol = results["protocol"]
    notes = [
        f"Protocol {_text(protocol['name'])}: {_text(protocol['images'])}.",
        *(_text(text) for text in tables.explained({**results, "method": own_name})),
        *(_text(text) for text in tables.rests_on(results, method)),
        *(_text(text) for text in tables.over_seeds(method)),
        *(f"Warning: {_text(text)}" for text in results["warnings"]),
    ]
    return "\n".join(
        [
            f"| {' | '.join(head)} |",
            f"|{' --- |' * len(head)}",
            *rows,
            "",
            "\n\n".join(notes),
            "",
        ]
    )


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what tells two methods apart in their configurations.

    That leaves out what only a file has, and where the towers were: their digest stays.
    """
    embedding = config["embedding"]
    tower = {k: v for k, v in embedding["tower"].items() if k != "name"}
    kept = {k: v for k, v in config.items() if k not in ("schema", "item_jax")}
    return kept | {"embedding": embedding | {"tower": tower}}


def _percent(value: float | None, ends: Any) -> str:
    if value is None:
        return "-"
    interval = f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else ""
    return f"{100 * value:.2f}{interval}"


def _train_auc(config: Mapping[str, Any]) -> str:
    fit = config.get("fit") or {}
    if fit.get("train_auc") is None:
        return "unknown"
    return f"{fit['train_auc']:.3f}, on {fit['train_auc_images']:,} training images"


def _number(images: int) -> str:
    return f"{images:,}" if images else "not recorded"


def _role(facts: Mapping[str, Any] | None) -> str:
    return _text((facts or {}).get("id") or "unknown")


def _names(names: Any) -> str:
    return _text(", ".join(filter(None, names)) or "unnamed")


def _text(text: object) -> str:
    """Text of others as Markdown shows it: no markup, no new cells or lines."""
    shown = printable(text)
    for character in "\\`*_[]<>|#":
        shown = shown.replace(character, f"\\{character}")
    return shown


def _plain(value: Any) -> Any:
    """Settings as a person would list them."""
    if not isinstance(value, Mapping):
        return value
    return ", ".join(f"{name} {each}" for name, each in value.items())


def _code(text: object) -> str:
    return printable(text).replace("`", "'").replace("|", "/")
