"""Somebody else on the same data: another process where the storage claims to reach one, else another thread.

Two sides of a pipe, and an order of steps that both say aloud; nothing here sleeps in the hope that the other is ready.
"""

from __future__ import annotations

import multiprocessing
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from pickle import PicklingError
from typing import Any, Final, Self

from bamboo_sessions.storages.protocol import Storage
from bamboo_sessions.testing.harness import Desk, Power

PATIENCE: Final = 30.0
"""Seconds until a word that never comes fails the test."""


_AT_THE_TOP: Final = "Other processes import the harness: it has to stand at the top level of a module"


class Line:
    """One side of the pipe."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self._pipe = pipe

    def say(self, word: Any) -> None:
        """To the other side; anything that can be pickled."""
        self._pipe.send(word)

    def is_waiting(self) -> bool:
        """Whether the other side has said something that was not heard yet."""
        return self._pipe.poll(0)

    def hear(self) -> Any:
        """What the other side says next."""
        assert self._pipe.poll(PATIENCE), f"not a word within {PATIENCE:g} s"
        return self._pipe.recv()


Task = Callable[..., Any]
"""`task(storage, line, *args)`, at the top level of a module; what it gives can be pickled."""


def _in_a_thread(pipe: Connection[Any, Any], storage: Storage, task: Task, args: tuple[Any, ...]) -> None:
    try:
        answer = ("done", task(storage, Line(pipe), *args))
    except BaseException:  # noqa: BLE001 - whatever it is, whoever waits has to hear it
        answer = ("failed", traceback.format_exc())
    with suppress(OSError), pipe:  # the test may have failed and left
        pipe.send(answer)


def _in_a_process(pipe: Connection[Any, Any], desk: tuple[Any, Any], task: Task, args: tuple[Any, ...]) -> None:
    harness, place = desk
    storage = harness.open(place)
    try:
        _in_a_thread(pipe, storage, task, args)
    finally:
        storage.close()


def _processes() -> BaseContext:
    """Children of a server that has imported this kit: quick, and free of whatever the test's own process holds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bamboo_sessions.testing"])
    return context


class Elsewhere:
    """`with Elsewhere(desk, task, *args) as other:` the task runs elsewhere; `other.result()` is what it gave.

    With a `storage`, which is an object of this process, it runs in a thread that uses that one.
    """

    def __init__(self, desk: Desk, task: Task, *args: Any, storage: Storage | None = None) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._line, self._pipe = Line(ours), ours
        self._process: Any = None
        if storage is None and desk.has(Power.PROCESSES):
            what = (theirs, (desk.harness, desk.place), task, args)
            self._process = self._runs = _processes().Process(target=_in_a_process, args=what, daemon=True)  # type: ignore[attr-defined]  # every context has one
        else:
            used = desk.storage if storage is None else storage
            self._runs = threading.Thread(target=_in_a_thread, args=(theirs, used, task, args), daemon=True)
        self._start()
        if self._process is not None:
            theirs.close()  # so that the death of the other side can be heard

    def _start(self) -> None:
        try:
            self._runs.start()
        except (AttributeError, PicklingError, TypeError) as error:
            raise AssertionError(f"{_AT_THE_TOP}: {error}") from error

    def say(self, word: Any) -> None:
        """See `Line`; to one that has ended as well."""
        with suppress(OSError):
            self._line.say(word)

    def hear(self) -> Any:
        """See `Line`; what the task failed with is raised here."""
        try:
            word = self._line.hear()
        except EOFError:
            raise AssertionError(f"the other process died, and its stderr tells why. {_AT_THE_TOP}") from None
        assert not (isinstance(word, tuple) and word[:1] == ("failed",)), f"elsewhere:\n{word[1]}"
        return word

    def result(self) -> Any:
        """What the task gave; waits for its end."""
        kind, answer = self.hear()
        assert kind == "done"
        self._runs.join(PATIENCE)
        return answer

    def kill(self) -> None:
        """End the process at once, with no chance to clean up."""
        assert self._process is not None, "a thread cannot be killed"
        self._process.kill()
        self._process.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        if self._process is not None and error[0] is not None:
            self.kill()
        self._runs.join(PATIENCE)


def heard_from(others: Iterable[Elsewhere], seconds: float) -> list[Elsewhere]:
    """Those who have said something, or ended; waits for the first one, so many seconds at most."""
    ready = wait([other._pipe for other in others], seconds)
    return [other for other in others if other._pipe in ready]


def at_once(desk: Desk, *tasks: tuple[Any, ...]) -> list[Any]:
    """Every (task, *args) elsewhere, started together when all are ready; what each gave."""
    others = [Elsewhere(desk, _when_told, *task) for task in tasks]
    try:
        for other in others:
            assert other.hear() == "ready"
        for other in others:
            other.say("go")
        return [other.result() for other in others]
    finally:
        for other in others:
            other.__exit__(None, None, None)


def _when_told(storage: Storage, line: Line, task: Task, *args: Any) -> Any:
    line.say("ready")
    line.hear()
    return task(storage, line, *args)
