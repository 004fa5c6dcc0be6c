"""Storages made worse: slow, failing, forgetful. Each stands around another one and keeps its powers.

For the tests of whoever uses a repository ("what does my agent do when the disk is full?") and of whoever writes one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from bamboo_sessions.clock import SYSTEM_CLOCK, Clock
from bamboo_sessions.errors import StorageUnavailable
from bamboo_sessions.storages.memory import MemoryStorage
from bamboo_sessions.storages.protocol import Record, keeps_records

CALLS: Final = frozenset({
    "add_usage", "alone", "append_usage", "commit", "delete_record", "delete_session", "exists", "expired", "heads", "heads_telling", "is_current", "load_session",
    "lock", "page", "purge_record", "read", "read_held", "read_plain", "read_usage", "save_session", "search", "time_left", "touch", "was_deleted", "was_expired"})
"""The methods of a storage that do something."""

_SAID: Final = {"read_held": "read", "read_plain": "read", "heads_telling": "heads"}  # several doors to one thing

# The wrapper finds its methods in what it wraps, which no type checker can follow; it may pass where a storage passes.
if TYPE_CHECKING:
    _Face = MemoryStorage
else:
    _Face = object


class Wrapping(_Face):
    """Hands everything on to `inner`; a subclass has its say in `_call`."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # also before __init__: copy and pickle ask an empty object
            raise AttributeError(name)
        found = getattr(self.inner, name)
        said = _SAID.get(name, name)
        return partial(self._call, said, found) if name in CALLS else found

    def _call(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        return call(*args)


class SlowStorage(Wrapping):
    """Waits `seconds` by `clock` before every call; `only` names the calls that are slow."""

    def __init__(self, inner: Any, seconds: float = 0.01, *, clock: Clock = SYSTEM_CLOCK,
                 only: frozenset[str] = CALLS) -> None:
        super().__init__(inner)
        self._seconds, self._waits, self._only = seconds, clock, only

    def _call(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        if name in self._only:
            self._waits.sleep(self._seconds)
        return call(*args)


@attrs.define
class _Failure:
    call: str
    when: Literal["before", "after"]
    skip: int
    times: int
    error: Exception | None


class FailingStorage(Wrapping):
    """Fails where it is told to, and otherwise passes through.

        storage.fail("commit")                        # the next commit fails and is not applied
        storage.fail("commit", when="after")          # it is applied, and its answer is lost: outcome unknown
        storage.fail("read", skip=2, times=3)         # the third, fourth and fifth read
        storage.fail("save_session", error=OSError()) # what somebody's own storage may raise

    `failed` counts what was failed so far: a test that meant to fail something can make sure.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.failed = 0
        self._failures: list[_Failure] = []
        self._planning = threading.Lock()  # guards the plan and the count

    def fail(self, call: str, *, when: Literal["before", "after"] = "before", skip: int = 0, times: int = 1,
             error: Exception | None = None) -> None:
        """Fail `times` calls of that name after letting `skip` of them through."""
        if call not in CALLS:
            raise ValueError(f"{call!r} is no call of a storage: {sorted(CALLS)}")
        with self._planning:
            self._failures.append(_Failure(call, when, skip, times, error))

    def recover(self) -> None:
        """Forget what was still to fail."""
        with self._planning:
            self._failures.clear()

    def _call(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        failure = self._due(name)
        if failure is None:
            return call(*args)
        if failure.when == "after":
            call(*args)
        raise failure.error or StorageUnavailable(name, reason="on purpose",
                                                  outcome="unknown" if failure.when == "after" else "not applied")

    def _due(self, name: str) -> _Failure | None:
        with self._planning:
            for failure in self._failures:
                if failure.call == name:
                    if failure.skip:
                        failure.skip -= 1
                        return None
                    failure.times -= 1
                    if not failure.times:
                        self._failures.remove(failure)
                    self.failed += 1
                    return failure
            return None


Memory = Literal["deletions", "ops", "stamps"]


class _NeverAgain:
    """A stamp that equals no other."""

    __slots__ = ()


class ForgetfulStorage(Wrapping):
    """Remembers less than it could: by default it forgets stamps and answers every reader with the whole record, as any
    storage may. `forgets` "ops": which commits led to a state; "deletions": that a birth was deleted."""

    def __init__(self, inner: Any, *, forgets: frozenset[Memory] | set[Memory] = frozenset({"stamps"})) -> None:
        super().__init__(inner)
        if not keeps_records(inner):
            raise TypeError(f"{type(inner).__name__} keeps no records: there is nothing that it could forget")
        self._forgets = frozenset(forgets)

    def _call(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        if name == "is_current" and "stamps" in self._forgets:
            return False
        if name == "was_deleted" and "deletions" in self._forgets:
            return False
        if name == "read":
            return self._without(call(*(args[:1] if "stamps" in self._forgets else args)))
        stamp = call(*args)
        return _NeverAgain() if name == "commit" and "stamps" in self._forgets else stamp

    def _without(self, answer: Any) -> Any:
        if not isinstance(answer, Record):
            return answer
        ops = () if "ops" in self._forgets else answer.ops
        return Record(answer.head, answer.messages, ops, _NeverAgain() if "stamps" in self._forgets else answer.stamp)


