"""What a command says beside its results: progress, logs, completion."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from item_jax import __main__ as door
from item_jax import commands, installed, progress

ROOT = Path(__file__).parent.parent


def test_a_log_has_lines(monkeypatch):
    """A carriage return made one line of hours, which `tail -f` shows as it likes."""
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "EVERY", 0)
    with progress.progress("embed", 3, "img") as bar:
        for _ in range(3):
            bar.update()
        bar.set_postfix(failed=1)
    text = log.getvalue()
    lines = text.splitlines()
    assert "\r" not in text and text.endswith("\n") and all(lines)
    assert lines[0].startswith("embed: 0 of 3 img (0%)")
    assert "embed: 2 of 3 img (67%)" in text
    assert lines[-1].startswith("embed: 3 of 3 img (100%)") and "failed=1" in lines[-1]


def test_a_terminal_has_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress("embed", 3, "img") as bar:
        bar.update(3)
    assert "\rembed: 100%|" in terminal.getvalue()


def test_nothing_is_said_when_it_is_not_wanted(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setenv(progress.QUIET, "1")
    with progress.progress("embed", 3, "img") as bar:
        bar.update()
    assert not log.getvalue()


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "item_jax", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
    )


@pytest.mark.slow
def test_quiet_and_verbose_of_a_command(photos, tiny_clip, tmp_path):
    from item_jax.records import write_records

    root, records = photos
    write_records(tmp_path / "records.jsonl", records)
    embed = (
        *("embed", "--workdir", str(tmp_path), f"--config.data.images={root}"),
        f"--config.tower={tiny_clip[0]}",
    )
    plain = run(*embed, "--config.embed.shard_size=12")
    assert plain.returncode == 0 and "embed: 24 of 24 img (100%)" in plain.stderr
    assert "embed:" not in plain.stdout and "24 embedded" in plain.stdout
    quiet = run(*embed, "--cache=other", "--quiet")
    assert quiet.returncode == 0 and quiet.stderr == ""
    wrong = run("embed", "--workdir", str(tmp_path / "gone"))
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    wrong = run("embed", "--workdir", str(tmp_path / "gone"), "--verbose")
    assert "Traceback" in wrong.stderr and "no records at" in wrong.stderr


def test_a_closed_pipe_ends_a_sidecar_quietly():
    code = (
        "import sys\n"
        "from item_sidecars.run import guarded\n"
        "sys.exit(guarded(lambda _: [print('x' * 99, flush=True) for _ in range(999)]"
        " and 0, None))"
    )
    words = f"{sys.executable} -c {shlex.quote(code)}"
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts") + os.pathsep + str(ROOT)},
    )
    assert done.stdout.split()[1:] == ["141"] and done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_completes(shell, capsys):
    assert door.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*commands.NAMES, "--caption-with", "--save-dir"):
        assert word in script


def test_bash_takes_the_script(capsys, tmp_path):
    """And completes a command, an option and a file."""
    assert door.main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "ask").write_text(
        "source ./script\n"
        'ask() { COMP_WORDS=(item-jax "$@"); COMP_CWORD=$#; COMPREPLY=()\n'
        '  _shtab_item_jax; echo "${COMPREPLY[@]}"; }\n'
        "ask pred; ask predict --cap; ask predict --save-dir x --json pho\n"
    )
    done = subprocess.run(
        ["bash", "ask"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    command, option, file = done.stdout.splitlines()
    assert command == "predict" and file == "photo.jpg"
    assert option.split() == ["--caption", "--caption-with", "--captioner"]


def test_without_shtab_the_command_is_named(monkeypatch, capsys):
    monkeypatch.setattr(installed, "missing", list)
    assert door.main(["completion", "bash"]) == 2
    assert "pip install 'item-jax[completion]'" in capsys.readouterr().err
