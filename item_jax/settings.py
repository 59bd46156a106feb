"""What an embedding depends on, kept with it, and the one comparison of two of them.

Stored verbatim as subtrees of the configuration, with the identity of the towers,
the captioner and the grounder: as `embedding` in the manifest of a cache, and copied
from there into every method that is fitted on it.

    {"tower": {"name", "family", "checkpoint_sha256", "embed_dim", "image_size"},
     "dtype", "texts": {"clean"}, "data": {...}, "views": {...}, "neutralise": {...},
     "perturb": {...}, "outputs": {name: its shape for one image},
     "captioner": {"id", ...} or null, "grounder": {"id", ...} or null}

`outputs` are those of the image tower beside the embedding, often none. A method keeps
only those that it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from item_jax import files
from item_jax.config import leaves, to_json
from item_jax.fields import OUTPUTS
from item_jax.images import MAX_PIXELS

Embedding = dict[str, Any]

ROLES = ("captioner", "grounder")
SECTIONS = ("data", "views", "neutralise", "perturb")
LOCATIONS = (
    "records",
    "images",
    "error_maps",
)  # of `data`: where things are, not what they are

REFUSED = ("tower", "views", "neutralise")
"""Sections that make embeddings incomparable when they differ. Any other difference
shifts a score: it is a warning, kept with the result."""

IGNORED = (
    *("tower.name", "tower.family"),  # the checksum identifies a tower
    *("captioner.fingerprint", "grounder.fingerprint"),  # they name the images too
)

NOT_SCORES = ("data.max_pixels",)
"""Decides which images fail, not what an embedding is: compared within a cache only."""


def embedding(towers: Any, config: ConfigDict, facts: Mapping[str, Any]) -> Embedding:
    """Returns the settings that embeddings depend on.

    Args:
      towers: `item_jax.towers.towers.Towers`, or an object with the same attributes.
      config: `dtype` is that of the towers; `data`, `views`, `neutralise`, `perturb`
        and `embed.outputs`.
      facts: of the data set: `captioner` and `grounder`, dictionaries or None.

    Raises:
      ValueError: for an output that the towers do not have.
    """
    wanted = [name for name in OUTPUTS if name in config.embed.outputs]
    shapes = towers.output_shapes(wanted) if wanted else {}
    stored: Embedding = {
        "tower": {
            "name": towers.name,
            "family": getattr(towers, "family", ""),
            "checkpoint_sha256": towers.checkpoint_sha256,
            "embed_dim": towers.embed_dim,
            "image_size": towers.image_size,
        },
        "dtype": towers.dtype,
        "texts": {"clean": getattr(towers, "text_cleaning", "")},
    }
    stored |= {name: to_json(config[name]) for name in SECTIONS}
    for name in LOCATIONS:
        del stored["data"][name]
    stored["outputs"] = {name: list(shape) for name, shape in shapes.items()}
    return stored | {role: facts.get(role) for role in ROLES}


def restore(stored: Embedding, config: ConfigDict) -> None:
    """Sets in `config` what embeddings like the stored ones need, in place.

    The perturbation is left as it is: it belongs to an experiment, not to a method.
    """
    for section in ("data", "views", "neutralise"):
        for name, value in stored[section].items():
            if name in config[section] and f"{section}.{name}" not in NOT_SCORES:
                config[section][name] = value
    config.embed.outputs = tuple(stored.get("outputs", ()))
    config.texts.clean = text_cleaning(stored)


def with_outputs(stored: Embedding, names: Iterable[str]) -> Embedding:
    """Returns the settings with only those outputs that a method reads.

    Args:
      stored: of a cache.
      names: the method's `NEEDS`.
    """
    known = stored.get("outputs", {})
    kept = {name: known[name] for name in known if name in set(names)}
    return stored | {"outputs": kept}


def check_outputs(what: str, names: Iterable[str], found: Iterable[str]) -> None:
    """Refuses embeddings that lack outputs of the image tower.

    Args:
      what: the method's name, for the message.
      names: what it reads, its `NEEDS`; names that are no outputs are not looked at.
      found: the outputs that the embeddings have.

    Raises:
      ValueError: naming method and outputs, with the command to run.
    """
    needed = [name for name in OUTPUTS if name in set(names)]
    found = list(found)
    lacking = [name for name in needed if name not in found]
    if lacking:
        both = ",".join(name for name in OUTPUTS if name in {*needed, *found})
        raise ValueError(
            f"method {what!r} needs {' and '.join(lacking)} of the image tower, which "
            f"these embeddings do not have. Embed with `item-jax embed --cache NAME "
            f"--outputs {both}` and give --cache NAME to this command too; in Python "
            "set config.embed.outputs"
        )


def text_cleaning(stored: Embedding) -> str:
    """Returns how the texts of stored embeddings were cleaned, `config.texts.clean`.

    Embeddings of an older version do not say. Texts of CLIP were not cleaned then; of
    `general_vit` some of it was done, which has no name: "".
    """
    if "texts" in stored:
        return stored["texts"]["clean"]
    return "" if stored["tower"]["family"] == "general_vit" else "none"


def differing(stored: Embedding, found: Embedding) -> dict[str, tuple[Any, Any]]:
    """Returns every setting that differs, `{name: (stored, found)}`.

    What is ignored is left out; None stands for a setting that one of them lacks.
    """
    old, new = flat(stored), flat(found)
    return {
        name: (old.get(name), new.get(name))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    }


def differences(stored: Embedding, found: Embedding) -> list[str]:
    """Returns every setting that differs, one phrase each, but for what is ignored."""
    return [
        f"{name} was {old!r} and is {new!r}"
        for name, (old, new) in differing(stored, found).items()
    ]


def compare(stored: Embedding, found: Embedding, *, what: str) -> list[str]:
    """Compares the embeddings a method was fitted on with those it is to score.

    Args:
      stored: of the method.
      found: of the embeddings at hand.
      what: the method's name, for messages.

    Returns:
      A warning for each other setting that differs, those of `compare_roles`
      among them.

    Raises:
      ValueError: naming each setting of `REFUSED` that differs, or each output of the
        image tower that the method reads and the embeddings lack.
    """
    check_outputs(what, stored.get("outputs", ()), found.get("outputs", ()))
    old, new = flat(stored), flat(found)
    refused: list[str] = []
    warnings: list[str] = []
    for name in dict.fromkeys((*old, *new)):
        section = name.partition(".")[0]
        if section in (*ROLES, "outputs") or name in NOT_SCORES:
            continue
        if old.get(name) != new.get(name):
            message = f"{name}: {what} has {old.get(name)!r}, found {new.get(name)!r}"
            (refused if section in REFUSED else warnings).append(message)
    if refused:
        towers = [e["tower"]["name"] for e in (stored, found)]
        raise ValueError(
            f"{what} was fitted on another kind of embedding ({towers[0]}; these are "
            f"of {towers[1]}): {'; '.join(refused)}"
        )
    return warnings + compare_roles(stored, found, what=what)


def but_for(varied: Iterable[str], found: Embedding, stored: Embedding) -> Embedding:
    """Returns embeddings as they would be without what an experiment varies.

    Args:
      varied: settings, such as "perturb.severity", or whole sections.
      found: of the embeddings at hand.
      stored: of the method, whose values take the place of the varied ones.
    """
    out = dict(found)
    for name in varied:
        section, _, leaf = name.partition(".")
        new, old = out[section], stored[section]
        if not leaf or not isinstance(new, Mapping) or not isinstance(old, Mapping):
            out[section] = old
        elif leaf in old:
            out[section] = {**new, leaf: old[leaf]}
    return out


def compare_roles(
    stored: Embedding, facts: Mapping[str, Any], *, what: str
) -> list[str]:
    """Says where captioner or grounder are not those a method was fitted with.

    Args:
      stored: of the method.
      facts: `captioner` and `grounder` of the images at hand, dictionaries or None.
      what: the method's name, for messages.

    Returns:
      A sentence a role whose model differs; of one model, a phrase a setting that
      differs, where both have recorded it.
    """
    warnings = []
    for role, made in (("captioner", "captions"), ("grounder", "boxes")):
        old, new = stored[role], facts.get(role)
        names = _identity(old), _identity(new)
        if names[0] != names[1]:
            warnings.append(
                f"{role}: {what} was fitted on {made} of {names[0]}, these are of "
                f"{names[1]}: its scores may be off"
            )
        elif old and new:
            before, now = leaves(dict(old)), leaves(dict(new))
            warnings += [
                f"{role}.{name}: {what} has {before[name]!r}, found {now[name]!r}"
                for name in before
                if name in now
                and before[name] != now[name]
                and f"{role}.{name}" not in IGNORED
            ]
    return warnings


def flat(stored: Embedding) -> dict[str, Any]:
    """Returns what two embeddings are compared by, `{"views.geometry": "item", ...}`.

    What is ignored is left out, and what is None.
    """
    known = {k: v for k, v in stored.items() if v is not None}
    known["texts"] = {"clean": text_cleaning(stored)}
    return {k: v for k, v in leaves(known).items() if k not in IGNORED}


def _identity(facts: Mapping[str, Any] | None) -> str:
    return "none" if facts is None else repr(facts.get("id", "unnamed"))


def upgrade(old: Mapping[str, Any], *, tower: str, embed_dim: int) -> Embedding:
    """Returns the settings of a cache or head of version 0.1 in today's form.

    Args:
      old: its flat `fingerprint`, or `embedding`.
      tower: the name of the towers.
      embed_dim: D.

    Raises:
      KeyError: if one is missing.
    """
    name, _, severity = old["perturbation"].partition(":")
    return {
        "tower": {
            "name": tower,
            "family": "clip_vit",
            "checkpoint_sha256": old["checkpoint_sha256"],
            "embed_dim": embed_dim,
            "image_size": old["image_size"],
        },
        "dtype": old["dtype"],
        "texts": {"clean": "none"},
        "data": {
            "score_threshold": old["score_threshold"],
            "max_objects": old["max_objects"],
            "min_object_pixels": old["min_object_pixels"],
            "max_pixels": MAX_PIXELS,
        },
        "views": {"geometry": old["geometry"], "object_crop": old["object_crop"]},
        "neutralise": {
            "quality": old["neutralise_quality"],
            "size": old["neutralise_size"],
        },
        "perturb": {"name": name, "severity": int(severity or 0)},
        # It was "ID (fingerprint)".
        **{
            role: {"id": old[role].rpartition(" (")[0] or old[role]}
            if old.get(role)
            else None
            for role in ROLES
        },
    }


_SHAPE: dict[str, Any] = {
    **{f"tower.{k}": str for k in ("name", "family", "checkpoint_sha256")},
    **{f"tower.{k}": int for k in ("embed_dim", "image_size")},
    "dtype": str,
    "data.score_threshold": (int, float),
    **{f"data.{k}": int for k in ("max_objects", "min_object_pixels", "max_pixels")},
    **{f"views.{k}": str for k in ("geometry", "object_crop")},
    **{f"neutralise.{k}": int for k in ("quality", "size")},
    "perturb.name": str,
    "perturb.severity": int,
}


def check(stored: Mapping[str, Any], where: object) -> None:
    """Checks settings that were read from a file.

    Args:
      stored: a JSON object whose `embedding` they are.
      where: the file, for the message.

    Raises:
      ValueError: naming file and field, for one that is missing or of another type.
    """
    for name, kind in _SHAPE.items():
        files.field(stored, f"embedding.{name}", kind, where)
    outputs = stored["embedding"].get("outputs", {})
    if not isinstance(outputs, dict) or not all(
        name in OUTPUTS
        and isinstance(shape, list)
        and all(type(n) is int and n > 0 for n in shape)
        for name, shape in outputs.items()
    ):
        raise ValueError(
            f"{where}: 'embedding.outputs' is {outputs!r}; expected shapes by name, of "
            f"{', '.join(OUTPUTS)}"
        )
    if "texts" in stored["embedding"]:
        files.field(stored, "embedding.texts.clean", str, where)
    for role in ROLES:
        known = files.field(stored, f"embedding.{role}", (dict, type(None)), where)
        if known is not None and "id" in known:
            files.field(stored, f"embedding.{role}.id", str, where)
