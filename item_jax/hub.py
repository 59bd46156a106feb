"""Fitted methods on the Hugging Face Hub, and towers that were moved.

A method is published without the folders of the machine it was fitted on. Its towers
are named by repository id, or by the name of their folder, and always by their digest,
which is compared when they are loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from item_jax import files
from item_jax.fitted import FittedMethod
from item_jax.model_card import short_name
from item_jax.towers.checkpoint import download, hub_errors

ABOVE = 3
"""So many folders above a method's are searched for its towers."""

MOST = 12
"""So many folders beside a missing one are listed."""


def load(name: str | Path, revision: str | None = None) -> tuple[FittedMethod, Path]:
    """Loads a fitted method without its towers.

    Args:
      name: a folder that `item-jax train` wrote, or a Hugging Face repository id, whose
        method may not name modules outside item_jax.
      revision: branch, tag or commit of a repository.

    Returns:
      The method, and the folder it was read from.

    Raises:
      ValueError: for a missing or damaged method, or the revision of a folder; before
        the Hub is asked, for a name whose folder above is here.
    """
    folder = Path(name)
    local = folder.is_dir()
    if local and revision is not None:
        raise ValueError(f"revision {revision!r}: {folder} is a folder, which has none")
    if not local:
        _refuse_missing(str(name))
        folder = download(str(name), revision)
    return FittedMethod.load(folder, modules=local), folder


def _refuse_missing(name: str) -> None:
    """Refuses what cannot be on the Hub, and what is a mistyped folder."""
    above = Path(name).parent
    is_id = name.count("/") == 1 and not name.startswith((".", "/"))
    if is_id and not above.is_dir():
        return
    if not above.is_dir():
        raise ValueError(f"no fitted method at {name!r}: {above} does not exist")
    beside = sorted(
        p.name for p in above.iterdir() if p.is_dir() and p.name[:1] not in "._"
    )
    close = difflib.get_close_matches(Path(name).name, beside, n=1)
    hint = f" Did you mean {str(above / close[0])!r}?" if close else ""
    shown = ", ".join(beside[:MOST]) or "no folder"
    more = f" and {len(beside) - MOST} more" if len(beside) > MOST else ""
    raise ValueError(
        f"no fitted method {name!r}: there is no such folder"
        f"{'' if '/' in name else ', and a repository id has an owner: OWNER/NAME'}. "
        f"{above.absolute()} has {shown}{more}.{hint}"
    )


def push(
    method: FittedMethod,
    repository: str,
    *,
    results: Mapping[str, Any] | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str = "",
    token: str | None = None,
) -> str:
    """Publishes a method with its model card.

    Args:
      method: fitted.
      repository: its id, `owner/name`; made if it is not there.
      results: the content of a `results.json`, whose figures the card shows.
      private: whether a repository that is made can be seen by its owner alone.
      revision: an existing branch; default: the main one.
      message: of the commit.
      token: of the Hub; default: the one that is logged in.

    Returns:
      The commit, for `from_pretrained(repository, revision=...)`.

    Raises:
      ValueError: if the Hub refuses, or cannot be reached; or for results of another
        method.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        portable(method).save(folder, results=results)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=message or f"{method.name}, fitted with item_jax",
            )
        except hub_errors() as e:
            raise ValueError(
                f"cannot publish to {repository!r} on the Hugging Face Hub: "
                f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
            ) from e
    return commit.oid


def portable(method: FittedMethod) -> FittedMethod:
    """Returns the method without the path of its towers' folder."""
    tower = method.embedding["tower"]
    embedding = method.embedding | {
        "tower": tower | {"name": short_name(tower["name"])}
    }
    return dataclasses.replace(method, config=method.config | {"embedding": embedding})


def find_towers(name: str, folder: Path) -> str:
    """Returns where the towers of a method are.

    A whole workdir that was moved, or copied to another machine, still has them at the
    same place in itself. Whether they are the right ones, their digest says.

    Args:
      name: of the towers as the method knows them.
      folder: of the method.

    Returns:
      A folder, or a file of weights in one, that is there; or `name`.
    """
    path = Path(name)
    if path.exists() or (not path.is_absolute() and "/" in name):
        return name
    parts = path.parts[1:] if path.is_absolute() else path.parts
    for above in list(folder.resolve().parents)[:ABOVE]:
        for start in range(len(parts)):
            moved = above.joinpath(*parts[start:])
            beside = moved.parent if moved.is_file() else moved
            if moved.exists() and any(
                (beside / config).is_file()
                for config in ("config.json", "open_clip_config.json")
            ):
                return str(moved)
    return name


def described(towers: Mapping[str, Any]) -> str:
    """Returns the towers of a method as a message names them."""
    digest = files.printable(towers["checkpoint_sha256"])[:12]
    return f"{files.printable(towers['name'])} (SHA-256 {digest}...)"
