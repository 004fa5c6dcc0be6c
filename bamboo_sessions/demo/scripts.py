"""Where the demo's files lie, and the scripts that the processes are given: a line of JSON for each thing to do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import attrs

from bamboo_sessions.demo.plan import Edit, Plan, Question, Turn

UI: Final = "ui"


@attrs.frozen
class Place:
    """The folder of one demonstration."""

    folder: Path

    @property
    def sessions(self) -> Path:
        """The store itself."""
        return self.folder / "sessions"

    @property
    def curtain(self) -> Path:
        """Appears when the runtimes are done: the UI looks once more and goes home."""
        return self.folder / "runtimes-are-done"

    def script(self, name: str) -> Path:
        """What a process shall do."""
        return self.folder / "scripts" / f"{name}.jsonl"

    def log(self, name: str) -> Path:
        """What a process tried, and what was acknowledged."""
        return self.folder / "logbooks" / f"{name}.jsonl"

    def output(self, name: str) -> Path:
        """What a process printed: the library's log, and why it ended if it did."""
        return self.folder / "output" / f"{name}.txt"

    def make(self) -> None:
        """The folder and its parts."""
        for part in ("sessions", "scripts", "logbooks", "output"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)


def runtime_names(count: int) -> list[str]:
    """What the runtimes are called in scripts, logbooks and findings."""
    return [f"runtime-{number}" for number in range(1, count + 1)]


def write_scripts(place: Place, plan: Plan) -> None:
    """One file a process."""
    for name, turns in zip(runtime_names(len(plan.turns)), plan.turns, strict=True):
        _write(place.script(name), map(attrs.asdict, turns))
    answers = [{"session": session, **attrs.asdict(question)}
               for session, questions in plan.answers.items() for question in questions.values()]
    _write(place.script(UI), [*({"edit": attrs.asdict(edit)} for edit in plan.edits), *({"answer": a} for a in answers)])


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def read_turns(path: Path) -> list[Turn]:
    """A runtime's script."""
    return [
        Turn(line["session"], tuple((name, chat) for name, chat in line["messages"]),
             None if line["question"] is None else Question(**line["question"]), line["title"])
        for line in _read(path)
    ]


def read_ui_script(path: Path) -> tuple[list[Edit], dict[str, dict[str, Question]]]:
    """The UI's edits, and by session and tool call id the questions that it answers."""
    edits: list[Edit] = []
    answers: dict[str, dict[str, Question]] = {}
    for line in _read(path):
        if "edit" in line:
            edits.append(Edit(**line["edit"]))
        else:
            question = Question(**{key: value for key, value in line["answer"].items() if key != "session"})
            answers.setdefault(line["answer"]["session"], {})[question.tool_call_id] = question
    return edits, answers
