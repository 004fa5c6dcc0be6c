"""The command line: what it says, and the exit codes that scripts rely on."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from bamboo_sessions import Message, Session, SessionRepository
from bamboo_sessions.cli import main

CHAT = {"id": "hello", "messages": [
    {"role": "user", "content": "hello"}, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "AskUserQuestion", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "你好"}, {"role": "user", "content": "bye"}]}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line, called as its entry point is."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["bamboo-sessions", *map(str, arguments)])
        main()
    code = ended.value.code
    return subprocess.CompletedProcess([*arguments], code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def run_alone(*arguments: str | Path, program: str | None = None) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, which takes a hundred times as long; with a program in front of it where one is given."""
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
    ran = run_alone("demo", "--data", chat, "--folder", tmp_path / "demo", "--runtimes", "2", "--kills", "0")
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
    ran = run_alone("demo", "--data", chat, "--folder", tmp_path / "demo", "--runtimes", "2", "--kills", "0", program=LOSES)
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
    ran = run_alone(program=program)
    assert ran.returncode == 1
    assert ran.stderr.strip() == "the command line needs the extra `cli`: pip install 'bamboo-sessions[cli]'"


def test_help_explains_the_command_and_its_exit_codes():
    """What a user sees first."""
    ran = run("demo", "--help")
    assert ran.returncode == 0
    assert all(word in ran.stdout for word in ("--data", "--folder", "--runtimes", "--kills", "--seed", "Exit code"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One session of four revisions."""
    with SessionRepository.open(tmp_path / "store") as repo:
        session = Session.new("chat [1]")
        for number in range(4):
            session.add_message(Message.user(str(number)))
            repo.save(session)
    return tmp_path / "store"


def damage(store: Path) -> Path:
    """A wrong byte in the second line of the journal of three."""
    [journal] = store.rglob("journal.jsonl")
    data = journal.read_bytes()
    at = data.index(b"\n") + 40
    journal.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    return journal


def test_a_store_that_is_well_ends_a_check_with_0(store: Path):
    """In both forms."""
    ran = run_alone("check", store)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "all is well\n", "")
    assert run("check", store, "--json").stdout == ""


@pytest.mark.usefixtures("damage_on_purpose")
def test_damage_is_told_with_1_and_repaired(store: Path):
    """Session, kind, place and last good revision, as a table and as JSON; after the repair there is none."""
    journal = damage(store)
    ran = run("check", store)
    assert ran.returncode == 1
    assert all(word in ran.stdout for word in ("chat [1]", "journal-damaged", "revision 1", "1 damaged, 0 left over"))
    ran = run("check", store, "--json", "--session", "chat [1]")
    told = json.loads(ran.stdout)
    assert (ran.returncode, told["kind"], told["path"], told["since"]) == (1, "journal-damaged", str(journal), 1)
    ran = run("repair", store, "chat [1]")
    assert ran.returncode == 0
    assert "'chat [1]' is whole again at revision 5" in ran.stdout
    assert run("check", store).returncode == 0
    ran = run("repair", store, "chat [1]", "--json")
    assert (ran.returncode, json.loads(ran.stdout)["changed"]) == (0, False)


def test_what_cannot_be_checked_or_repaired(store: Path, tmp_path: Path):
    """No store: bad usage, and none is made. A session that is not there, a store that does not open: 1."""
    for command in (("check", tmp_path / "no"), ("repair", tmp_path / "no", "a")):
        ran = run(*command)
        assert (ran.returncode, "no store is there" in ran.stderr) == (2, True)
    assert not (tmp_path / "no").exists()
    assert run("repair", store, "absent").returncode == 1
    (store / "store.json").write_text("{}")
    ran = run("check", store)
    assert (ran.returncode, "store.json is damaged" in ran.stderr) == (1, True)
    (store / "store.json").unlink()
    assert "error" in json.loads(run("check", store, "--json").stdout)


def test_a_store_is_copied_with_0_and_what_stands_in_the_way_is_named_with_1(store: Path, tmp_path: Path):
    """As text and as JSON; a second run has nothing to do; what the target has of its own is left and told."""
    ran = run("copy", store, tmp_path / "new")
    assert (ran.returncode, ran.stdout) == (0, "1 copied, 0 brought up to date, 0 there already, 0 not copied\n")
    told = json.loads(run("copy", store, tmp_path / "new", "--json").stdout)
    assert (told["copied"], told["same"], told["settled"]) == (0, 1, True)
    with SessionRepository.open(tmp_path / "new") as repo:
        repo.set_title("chat [1]", "changed in the target")
    ran = run("copy", store, tmp_path / "new")
    assert (ran.returncode, "'chat [1]': the target has revision 5" in ran.stdout) == (1, True)


def test_a_copy_tells_of_token_usage(store: Path, tmp_path: Path):
    """How many lines came along, as text and as JSON; what stays behind is a problem, and the exit says so."""
    with SessionRepository.open(store) as repo:
        for _ in range(3):
            repo.append_token_usage_record("chat [1]", '{"tokens": 1}')
    ran = run("copy", store, tmp_path / "new")
    assert (ran.returncode, ran.stdout.splitlines()[1:]) == (0, ["3 lines of token usage"])
    [log] = store.rglob("usage.jsonl")
    log.write_bytes(log.read_bytes() + b'{"tokens"\n')
    ran = run("copy", store, tmp_path / "new", "--json")
    assert (ran.returncode, json.loads(ran.stdout)["usage_lines"]) == (1, 0)
    assert "1 line of its token usage" in json.loads(ran.stdout)["problems"][0]["why"]


def test_what_cannot_be_copied(store: Path, tmp_path: Path):
    """No source: bad usage, and none is made. No such scheme: bad usage."""
    assert run("copy", tmp_path / "no", tmp_path / "new").returncode == 2
    assert not (tmp_path / "no").exists()
    ran = run("copy", store, "gopher://here")
    assert (ran.returncode, "gopher" in ran.stderr) == (2, True)


def test_search_shows_where_words_are(tmp_path: Path):
    """As text and as lines of JSON; 0 where something was found, 1 where nothing was, 2 for what is no query and no store."""
    with SessionRepository.open(tmp_path / "store", durability="process") as repo:
        session = Session.new("trip", title="To Zürich")
        session.add_message(Message.user("A [bold]train[/bold] to zurich\x1b[2J"))
        repo.save(session)
    ran = run("search", tmp_path / "store", "zurich", "TRAIN")
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "trip  0 user  A [bold]train[/bold] to zurich [2J\n")
    ran = run("search", "--json", "--limit", "1", "--prefix", tmp_path / "store", "zur")
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["session_id"], found["index"], found["snippet"], found["marks"]) == (0, "trip", None, "To Zürich", [[3, 9]])
    assert "there is more" in run("search", "--limit", "1", tmp_path / "store", "zurich").stdout
    assert [run("search", tmp_path / place, words).returncode for place, words in (("store", "nowhere"), ("store", "?!"), ("none", "a"))] == [1, 2, 2]
