"""scripts/README.md lists what was run: exactly what the tests run."""

import inspect
import re
import tomllib
from pathlib import Path

import test_caption
import test_grounders
import tiny_captioners
import tiny_chat
import tiny_grounders

ROOT = Path(__file__).parent.parent
README = (ROOT / "scripts/README.md").read_text()
SECTION = README.split("### What was run\n")[1].split("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in SECTION.splitlines()
    if line.startswith("| ")
][2:]


def classes(makers):
    """The classes of transformers that functions make checkpoints of."""
    text = "".join(map(inspect.getsource, makers))
    return set(re.findall(r"hf\.(\w+)ForConditionalGeneration\b", text))


def listed(where):
    """The classes in the rows that were run there."""
    rows = [row for row in ROWS if row[2].startswith("yes") and row[3] == where]
    return set(re.findall(r"`(\w+)`", " ".join(row[1] for row in rows)))


def test_the_captioners_are_those_of_the_tests():
    makers = tiny_captioners.CAPTIONERS
    assert listed("every test run") == classes(
        makers[name] for name in test_caption.PAPERS
    )
    slow = [makers[name] for name in test_caption.OTHERS]
    assert listed("`pytest -m slow`") == classes(
        [*slow, *tiny_chat.CHAT_MODELS.values()]
    )
    beside = next(row for row in ROWS if "Qwen3VL" in row[1])
    assert set(re.findall(r"`(\w+)`", beside[1])) == classes(
        tiny_chat.CHAT_MODELS.values()
    )
    assert [row[0] for row in ROWS if row[2] == "no"] == ["other chat models"]


def test_the_grounders_are_those_of_the_tests():
    [row] = [row for row in ROWS if "DINO" in row[0]]
    names = {name.strip().lower().replace(" ", "-") for name in row[0].split(",")}
    assert names == set(tiny_grounders.GROUNDERS)
    assert row[3] == "every test run; all but OWLv2 in bfloat16 too"
    # LLMDet is a checkpoint of the same class as MM-Grounding-DINO.
    assert names - {"owlv2", "llmdet"} == set(test_grounders.DINOS)
    assert tiny_grounders.GROUNDERS["llmdet"] is tiny_grounders.mm_grounding_dino
    [glip] = [row for row in ROWS if row[0] == "GLIP"]
    assert "try_glip.py" in glip[3] and (ROOT / "scripts/try_glip.py").is_file()


def test_the_versions_are_those_of_the_tests():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = project["optional-dependencies"]["test"]
    pinned += (ROOT / "tests/requirements-references.txt").read_text().splitlines()
    for name in ("torch", "torchvision"):
        version = re.search(rf"\b{name} (\d+\.\d+)", SECTION)[1]
        assert any(line.startswith(f"{name}=={version}.") for line in pinned)


def test_the_files_it_names_are_there():
    for name in re.findall(r"`(tests/\w+\.py)`", README):
        assert (ROOT / name).is_file(), name
