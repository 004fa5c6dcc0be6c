"""The command line: what it says, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHAT = {"id": "hello", "messages": [
    {"role": "user", "content": "hello"}, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "AskUserQuestion", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "你好"}, {"role": "user", "content": "bye"}]}


def run(*arguments: str | Path, program: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with a program in front of it where one is given."""
    start = ["-m", "bamboo_sessions"] if program is None else ["-c", program]
    return subprocess.run([sys.executable, *start, *map(str, arguments)], capture_output=True, text=True, check=False,
                          timeout=50, encoding="utf-8")


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps(CHAT) + "\n")
    return file


def test_a_demonstration_that_loses_nothing_ends_with_0(tmp_path: Path, chat: Path):
    """The table counts, says where the files lie, and the files are there."""
    ran = run("demo", "--data", chat, "--folder", tmp_path / "demo", "--runtimes", "2", "--kills", "0")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert all(word in ran.stdout for word in ("attempted", "stored", "lost", "merged", "conflicts", "nothing was lost"))
    assert f"sessions: {tmp_path / 'demo' / 'sessions'}" in ran.stdout
    assert any((tmp_path / "demo" / "sessions").iterdir())


LOSES = """
import sys, bamboo_sessions.demo.run as run
keep = run._found
def forgetful(repo, session_id):
    import attrs
    found = keep(repo, session_id)
    return attrs.evolve(found, messages=tuple(m for m in found.messages if m[0] != "0"))
run._found = forgetful
from bamboo_sessions.cli import main
sys.argv[0] = "bamboo-sessions"
main()
"""


def test_a_demonstration_that_loses_something_ends_with_1(tmp_path: Path, chat: Path):
    """A message is missing when the sessions are read back: the exit code and the text say so."""
    ran = run("demo", "--data", chat, "--folder", tmp_path / "demo", "--runtimes", "2", "--kills", "0", program=LOSES)
    assert ran.returncode == 1
    assert "hello: message 0 of runtime-" in ran.stdout
    assert "1 lost, 0 refused" in ran.stdout


def test_bad_input_ends_with_2_before_anything_is_written(tmp_path: Path):
    """File and line are named, and no folder was made."""
    file = tmp_path / "bad.jsonl"
    file.write_text('{"id": "a", "messages": [{"role": 5}, ')
    ran = run("demo", "--data", file, "--folder", tmp_path / "demo")
    assert ran.returncode == 2
    assert f"{file}, line 1: not a line of JSON" in ran.stderr
    assert not (tmp_path / "demo").exists()


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, chat: Path):
    """Sessions of an earlier run would be taken for this one's."""
    ran = run("demo", "--data", chat, "--folder", tmp_path)
    assert ran.returncode == 2
    assert f"{tmp_path}: not an empty folder" in ran.stderr


@pytest.mark.parametrize("arguments", [("demo", "--runtimes", "1"), ("demo", "--kills", "-1"), ("dance",), ("demo", "--tempo", "2")])
def test_bad_usage_ends_with_2(arguments: tuple[str, ...]):
    """As everywhere on a command line."""
    assert run(*arguments).returncode == 2


@pytest.mark.parametrize("name", ["typer", "rich"])
def test_without_the_extra_it_says_how_to_install_it(name: str):
    """One line instead of a traceback."""
    program = f"import sys; sys.modules[{name!r}] = None\nfrom bamboo_sessions.cli import main; main()"
    ran = run(program=program)
    assert ran.returncode == 1
    assert ran.stderr.strip() == "the command line needs the extra `cli`: pip install 'bamboo-sessions[cli]'"


def test_help_explains_the_command_and_its_exit_codes():
    """What a user sees first."""
    ran = run("demo", "--help")
    assert ran.returncode == 0
    assert all(word in ran.stdout for word in ("--data", "--folder", "--runtimes", "--kills", "--seed", "Exit code"))
