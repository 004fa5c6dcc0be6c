"""The demonstration as a command: arguments in, exit code out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bamboo_sessions.demo.chats import SAMPLE, BadInput, read_chats
from bamboo_sessions.demo.run import DemoFailed, run_demo
from bamboo_sessions.demo.scripts import Place
from bamboo_sessions.demo.show import Display, make_console, show_outcome

GOOD, LOST, BAD_USAGE = 0, 1, 2


def demo(data: Sequence[Path], folder: Path | None, *, runtimes: int, kills: int, seed: int) -> int:
    """Run it and show it; gives the exit code."""
    console, complaints = make_console(), Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        chats = read_chats(data or [SAMPLE])
        place = _place(folder)
    except BadInput as error:
        complaints.print(str(error))
        return BAD_USAGE
    messages = sum(len(chat.messages) for chat in chats)
    console.print(f"{len(chats):,} conversations, {messages:,} messages; {runtimes} runtimes and a UI write, seed {seed}")
    try:
        with Display(console) as display:
            outcome = run_demo(chats, place, display, runtimes=runtimes, kills=kills, seed=seed)
    except DemoFailed as error:
        complaints.print(str(error))
        return LOST
    show_outcome(console, outcome, place)
    return GOOD if outcome.good else LOST


def _place(folder: Path | None) -> Place:
    """A folder of its own for each demonstration: what lies in it would be taken for this one's."""
    if folder is None:
        return Place(Path(tempfile.mkdtemp(prefix="bamboo-sessions-demo-")))
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput(f"{folder}: not an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}") from error
    return Place(folder)
