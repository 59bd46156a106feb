"""Every notebook runs from its first cell to its last, from an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import nbclient
import nbformat
import pytest
import tiny_captioners
import tiny_grounders

from item_jax import testing
from item_jax.files import write_json
from item_jax.records import write_records

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "colab").glob("*.ipynb"))}
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """`kernel(python)` makes an interpreter the kernel of all notebooks."""

    def use(python):
        spec = tmp_path / "kernels" / "python3"
        spec.mkdir(parents=True)
        argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        about = {"argv": argv, "display_name": "Python 3", "language": "python"}
        (spec / "kernel.json").write_text(json.dumps(about))
        monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
        # Where the interpreter is, there are `python` and `item-jax` too.
        place = str(Path(python).parent)
        monkeypatch.setenv("PATH", os.pathsep.join([place, os.environ["PATH"]]))
        monkeypatch.delenv("MPLBACKEND", raising=False)  # the notebook's own: inline
        monkeypatch.setenv("XLA_FLAGS", "")  # one device, as a newcomer's laptop has

    return use


def read(name):
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def execute(notebook, folder, **settings):
    """Runs a notebook in an empty folder; its settings are changed before that.

    Returns:
      What it printed, and how many figures it has shown.
    """
    if settings:
        tagged = ["parameters" in c.metadata.get("tags", ()) for c in notebook.cells]
        place = tagged.index(True)
        for name in settings:
            assert re.search(rf"^{name} = ", notebook.cells[place].source, re.M)
        lines = [f"{name} = {value!r}" for name, value in settings.items()]
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    folder.mkdir()
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    finally:  # the output of commands is not part of the exception
        outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
        said = "".join(o.get("text", "") for o in outputs)
        print(said)
    return said, sum("image/png" in o.get("data", {}) for o in outputs)


@every_notebook
def test_notebook_is_stored_without_outputs(name):
    code = [c for c in read(name).cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code)


@every_notebook
def test_the_address_is_that_of_the_project(name):
    """The badge, and the first cell, which all notebooks share."""
    first, install, *_ = read(name).cells
    path = REPOSITORY.removeprefix("https://")
    colab = f"https://colab.research.google.com/{path.replace('.com', '')}"
    badge = (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"({colab}/blob/main/colab/{name}.ipynb)"
    )
    assert badge in first.source
    assert badge in (ROOT / "colab/README.md").read_text()
    assert f'REPOSITORY = "{REPOSITORY}"\n' in install.source
    shared = re.sub(r"^EXTRAS = .*", "", install.source, flags=re.M)
    other = read("quickstart").cells[1].source
    assert shared == re.sub(r"^EXTRAS = .*", "", other, flags=re.M)
    for extra in re.findall(r"\[(\w+)\]", install.source):
        assert extra in PROJECT["optional-dependencies"]


@every_notebook
def test_every_address_in_a_notebook_is_the_projects_or_a_known_one(name):
    text = "".join(cell.source for cell in read(name).cells)
    for address in re.findall(r"https?://[^\s)\"']+", text):
        known = ("https://arxiv.org/", "https://colab.research.google.com/")
        assert address.startswith((REPOSITORY, *known)), address


# ------------------------------------------------------------- from the first cell on

runs = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jupyter_client


@pytest.fixture
def this_python(kernel, monkeypatch):
    """The interpreter that runs the tests, and the package as it stands here."""
    kernel(sys.executable)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)


@runs
@pytest.mark.slow
def test_quickstart_runs(this_python, tmp_path):
    said, figures = execute(read("quickstart"), tmp_path / "empty")
    assert figures >= 4
    assert "macro average" in said and "only global" in said


@runs
@pytest.mark.slow
def test_train_on_tpu_runs(this_python, tmp_path, tiny_clip):
    """On images of one's own and a tiny CLIP: the miniature is the quick start's."""
    images = tmp_path / "images"
    write_records(tmp_path / "records.jsonl", testing.save_random_images(images))
    write_json(tmp_path / "records.run.json", {"images": str(images)})
    said, figures = execute(
        read("train_on_tpu"),
        tmp_path / "empty",
        RECORDS=str(tmp_path / "records.jsonl"),
        TOWER=str(tiny_clip[0]),
        EPOCHS=3,
    )
    assert "24 images, towers" in said and "head: trained" in said
    assert "macro average" in said and figures == 1
    run = tmp_path / "empty/run"
    assert {p.name for p in (run / "methods").iterdir()} == {"image", "cosine"}
    config = json.loads((run / "head/config.json").read_text())
    assert config["embedding"]["dtype"] == "bfloat16"
    assert (run / "results/results.json").is_file()


@runs
@pytest.mark.slow
def test_captions_and_boxes_runs(this_python, tmp_path, nltk_data, monkeypatch):
    """On two real photographs, with tiny models of the real classes."""
    monkeypatch.setenv("NLTK_DATA", str(nltk_data))
    said, figures = execute(
        read("captions_and_boxes"),
        tmp_path / "empty",
        CAPTIONER=str(tiny_captioners.blip2(tmp_path / "blip2")),
        GROUNDER_MODEL=str(tiny_grounders.mm_grounding_dino(tmp_path / "dino")),
    )
    assert "2 images = 2 captioned" in said and figures == 2
    assert "captions (--caption-with): ready" in said
    for name in ("captions/captions.jsonl", "objects/objects.jsonl"):
        lines = (tmp_path / "empty/annotated" / name).read_text().splitlines()
        assert [json.loads(line)["status"] for line in lines] == ["done"] * 2


@runs
@pytest.mark.slow
def test_photos_to_verdict_runs(this_python, tmp_path, nltk_data, monkeypatch):
    """The miniature's captioner, and a tiny grounder of a real class."""
    monkeypatch.setenv("NLTK_DATA", str(nltk_data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said, figures = execute(
        read("photos_to_verdict"),
        tmp_path / "empty",
        GROUNDER="mm-grounding-dino",
        GROUNDER_MODEL=str(tiny_grounders.mm_grounding_dino(tmp_path / "dino")),
        COUNT=8,
    )
    assert "20% of each label were held out" in said and "That is few" in said
    assert said.count("P(fake) = ") == figures >= 3
    assert "warning" not in said.split("$ item-jax evaluate")[1].split("predict ")[1]


@runs
@pytest.mark.slow
def test_extend_runs(this_python, tmp_path):
    said, figures = execute(read("extend"), tmp_path / "empty")
    assert "my distance" in said and "my method" in said and figures == 1
    assert said.count("macro average") == 2
    names = {path.name for path in (tmp_path / "empty").glob("my_*.py")}
    assert names == {"my_distance.py", "my_method.py", "my_towers.py"}


@runs
@pytest.mark.slow
def test_the_first_cell_installs_and_upgrades_nothing(kernel, tmp_path, monkeypatch):
    """In a runtime that has all packages of this one but ours."""
    source = tmp_path / "source"
    for part in ("item_jax", "configs", "scripts/sidecars"):
        shutil.copytree(ROOT / part, source / part)
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    who = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "all")):
        subprocess.run(["git", *words], cwd=source, check=True)
    venv.create(tmp_path / "runtime", with_pip=True)
    python = tmp_path / "runtime/bin/python"
    library = next((tmp_path / "runtime/lib").glob("python*/site-packages"))
    here = [Path(p) for p in sys.path if p.endswith("site-packages")]
    for path in [path for place in here for path in sorted(place.iterdir())]:
        ours = re.match(r"(__editable__.*)?item[-_](jax|sidecars)|.*\.pth$", path.name)
        if not ours and not (library / path.name).exists():
            (library / path.name).symlink_to(path)
    kernel(python)
    notebook = read("quickstart")
    del notebook.cells[2:]
    cell = notebook.cells[1]
    # With a host, which pip 23 of Python 3.11 wants to see.
    cell.source = cell.source.replace(REPOSITORY, f"file://localhost{source}")
    cell.source += "\nimport item_jax\n\nprint(item_jax.__file__, item_jax.__version__)"
    before = {path.name for path in library.iterdir()}
    said, _ = execute(notebook, tmp_path / "empty")
    assert f"{library}/item_jax/__init__.py" in said, said
    added = {path.name for path in library.iterdir()} - before
    assert all(re.match(r"item[-_](jax|sidecars)", name) for name in added), added
    assert "jax==" in (tmp_path / "empty/installed.txt").read_text()
