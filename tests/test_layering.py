"""Imports only go down: the storeys of the design, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "item_jax"

# A room may import what stands in a lower storey or its own, and what BESIDES names.
STOREYS = [
    {
        "choices",
        "files",
        "workdir",
        "signatures",
        "containers",
        "installed",
        "tensorboard",
    },
    {
        "fields",
        "config",
        "settings",
        "records",
        "join",
        "images",
        "views",
        "perturb",
        "budget",
    }
    | {"budget", "neutralise", "metrics", "progress", "protocol", "headers"}
    | {
        "influence",
        "square_and_add",
        "statistics",
        "calibration",
        "comparison",
        "summaries",
        "tables",
    }
    | {"sidecar_runs", "torch_files", "state_dicts", "results", "model_card"}
    | {"pixel_probe"},
    {"sharding", "misalignment", "heads", "datasets", "audit", "audit_report"},
    {"towers", "testing"},
    {"embeddings", "pipeline", "pixels", "error_maps", "shards", "cache"},
    {"training_loop", "early_stopping", "embed"},
    {"methods"},
    {"fitted", "method_files", "published", "outside_scores", "training_data"},
    {"train", "fit_records", "evaluate", "thresholds", "evidence"},
    {"detector", "hub", "export", "onnx_files"},
    {"plots", "figures"},
    {"experiments"},
    {"gallery", "app"},
    {"report", "report_tables"},
    {"commands"},
    {"__main__"},
]
NO_TOWERS = {"pipeline", "cache", "shards", "embeddings", "methods", "evaluate"}
NO_JAX = STOREYS[0] | STOREYS[1] | {"datasets", "audit", "audit_report"}
# These run other commands as a person would.
UP = {
    (f"commands/{name}.py", "__main__")
    for name in ("completion", "demo", "fit", "paper")
}
FOREIGN = {"torch", "tensorflow", "torchvision"}


def files():
    found = sorted(p for p in PACKAGE.rglob("*.py") if p.parent.name != "assets")
    return [p for p in found if p != PACKAGE / "__init__.py"]


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every module name a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            if node.module == "item_jax":
                names |= {f"item_jax.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    here = room(path)
    (storey,) = (i for i, rooms in enumerate(STOREYS) if here in rooms)
    allowed = set().union(*STOREYS[: storey + 1])
    if here in NO_TOWERS:
        allowed -= {"towers"}
    allowed |= {up for file, up in UP if file == str(path.relative_to(PACKAGE))}
    ours = {n.split(".")[1] for n in imports(path) if n.startswith("item_jax.")}
    # `from item_jax import __version__` and the like name no module.
    ours = {n for n in ours if (PACKAGE / n).is_dir() or (PACKAGE / f"{n}.py").exists()}
    assert ours <= allowed, f"{here} may not import {sorted(ours - allowed)}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_foreign_frameworks_stay_out(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & FOREIGN
    if room(path) in NO_JAX:
        assert not tops & {"jax", "flax", "optax", "orbax", "grain"}


def loaded_by(statement):
    code = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_import_is_light():
    assert not loaded_by("import item_jax") & {"jax", "flax", "numpy", "sklearn"}


def test_every_room_stands_in_a_storey():
    rooms = {room(path) for path in files()}
    assert rooms == set().union(*STOREYS)


def test_no_circles():
    """Within a storey too: imports at the top of files form no circle."""
    rooms = {}
    for path in files():
        top = ast.parse(path.read_text()).body
        found = set()
        for node in top:
            if isinstance(node, ast.ImportFrom) and (node.module or "") == "item_jax":
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = node.module.split(".")
                found |= {parts[1]} if parts[0] == "item_jax" else set()
        rooms.setdefault(room(path), set()).update(found - {room(path)})
    seen = set()

    def visit(name, above):
        assert name not in above, f"a circle: {' -> '.join([*above, name])}"
        if name not in seen:
            for other in sorted(rooms.get(name, ())):
                visit(other, [*above, name])
            seen.add(name)

    for name in sorted(rooms):
        visit(name, [])


def test_the_lowest_storeys_load_no_jax():
    names = ", ".join(f"item_jax.{n}" for n in sorted(STOREYS[0] | STOREYS[1]))
    assert not loaded_by(f"import {names}") & {"jax", "flax", "torch", "tensorflow"}


def test_everything_together_loads_neither_torch_nor_tensorflow():
    names = ", ".join(f"item_jax.{n}" for rooms in STOREYS for n in sorted(rooms))
    loaded = loaded_by(
        f"import {names}, item_jax.towers.towers, item_jax.datasets.layout, "
        "item_jax.datasets.tfds"
    )
    assert "jax" in loaded
    assert not loaded & FOREIGN
