"""The verdict: what the logbooks say against what was read back.

Pure, and ignorant of how sessions are merged: it takes nobody's word but the logbooks'. *Lost* is what was acknowledged
and is not there, or not as it was: a message missing, changed, doubled or out of its writer's order, a title, pin or
tag that went back, a question that closed by itself or opened again. What was tried without an acknowledgement may be
there or not; both are right. The counts of merges and conflicts come from the acknowledgements and judge nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from bamboo_sessions.demo.logbook import Entry


@attrs.frozen
class Found:
    """A session as it was read back, without a trace of the library: (id, digest) of each message, and so on."""

    messages: tuple[tuple[str, str], ...]
    title: str | None
    title_source: str | None
    pinned: bool
    tags: frozenset[str]
    open_questions: frozenset[str]


@attrs.frozen
class Row:
    """The verdict on one session. `attempted` and `stored` count messages, answers of the UI included."""

    session: str
    attempted: int
    stored: int
    lost: tuple[str, ...]
    failed: tuple[str, ...]
    merged: int
    conflicts: int

    @property
    def troubled(self) -> bool:
        """Something was lost, or an operation was refused."""
        return bool(self.lost or self.failed)


Logs = Mapping[str, Sequence[Entry]]
"""Entries, by the name of the process that wrote them."""


def judge(logbooks: Logs, sessions: Mapping[str, Found | str]) -> list[Row]:
    """A row a session, in the order of the ids; `sessions` has a text where nothing was read back: why."""
    by_session: dict[str, dict[str, list[Entry]]] = {session_id: {} for session_id in sessions}
    for name, entries in logbooks.items():
        for entry in entries:
            by_session.setdefault(entry.tried["session"], {}).setdefault(name, []).append(entry)
    return [_row(session_id, logs, sessions.get(session_id, "nobody looked")) for session_id, logs in sorted(by_session.items())]


def _row(session_id: str, logs: Logs, found: Found | str) -> Row:
    entries = [entry for of_one in logs.values() for entry in of_one]
    tried = {name for entry in _says(entries) for name, _ in entry.tried["messages"]}
    results = _results(entries)
    stored = set() if isinstance(found, str) else {name for name, _ in found.messages} & tried
    answered = 0 if isinstance(found, str) else len(_strangers(found, tried) & set(results))
    acks = [entry.acked for entry in entries if entry.acked is not None]
    return Row(
        session_id, attempted=len(tried) + len(results), stored=len(stored) + answered,
        lost=tuple(_lost(logs, entries, found)),
        failed=tuple(f"{name}: {e.failed}" for name, of_one in logs.items() for e in of_one if e.failed is not None),
        merged=sum(ack.get("merged", False) for ack in acks), conflicts=sum(ack.get("conflicts", 0) for ack in acks))


def _lost(logs: Logs, entries: Sequence[Entry], found: Found | str) -> Iterator[str]:
    if isinstance(found, str):
        if any(entry.acked is not None for entry in entries):
            yield found
        return
    for name, of_one in logs.items():
        yield from _lost_messages(name, of_one, found)
    yield from _nobodys_messages(entries, found)
    yield from _lost_edits(entries, found)
    yield from _lost_questions(entries, found)


# -- messages ----------------------------------------------------------------------------------------------------


def _says(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.tried["do"] == "say"]


def _lost_messages(writer: str, entries: Sequence[Entry], found: Found) -> Iterator[str]:
    """One writer's messages: each there, as it was said, and in the order in which this writer said them."""
    place = {name: (position, said) for position, (name, said) in enumerate(found.messages)}
    behind = -1
    for entry in _says(entries):
        for name, said in entry.tried["messages"] if entry.acked is not None else ():
            if name not in place:
                yield f"message {name} of {writer} is missing"
            elif place[name][1] != said:
                yield f"message {name} of {writer} says something else"
            elif place[name][0] < behind:
                yield f"message {name} of {writer} stands before an earlier one"
            behind = max(behind, place.get(name, (behind, ""))[0])


def _results(entries: Iterable[Entry]) -> Counter[str]:
    """Digests of the tool results that the UI's answers append."""
    return Counter(e.tried["result"] for e in entries if e.tried["do"] == "answer" and e.tried["result"] is not None)


def _strangers(found: Found, tried: set[str]) -> set[str]:
    return {said for name, said in found.messages if name not in tried}


def _nobodys_messages(entries: Sequence[Entry], found: Found) -> Iterator[str]:
    """What no runtime said must be the UI's answers, each once; anything over is doubled or made up."""
    tried = {name for entry in _says(entries) for name, _ in entry.tried["messages"]}
    names = Counter(name for name, _ in found.messages)
    yield from (f"message {name} is there {count} times" for name, count in names.items() if count > 1)
    there = Counter(said for name, said in found.messages if name not in tried)
    acked = _results(entry for entry in entries if entry.acked is not None)
    yield from (f"an answer's tool result is missing ({said[:8]})" for said in acked - there)
    yield from (f"a message that nobody said is there ({said[:8]})" for said in (there - _results(entries)).elements())


# -- what people edit --------------------------------------------------------------------------------------------


def _lost_edits(entries: Sequence[Entry], found: Found) -> Iterator[str]:
    titles = _last_of(entries, "title")
    if titles and (found.title not in titles or found.title_source != "user"):
        yield f"the title is {found.title!r} ({found.title_source}), acknowledged was {titles[0]!r} (user)"
    generated = [entry.tried["title"] for entry in _says(entries) if entry.acked is not None and entry.tried["title"]]
    if not titles and generated and found.title is None:
        yield f"the title is gone, acknowledged was {generated[-1]!r} (generated)"
    pins = _last_of(entries, "pinned")
    if pins and found.pinned not in pins:
        yield f"pinned is {found.pinned}, acknowledged was {pins[0]}"
    tags = {entry.tried["value"] for entry in entries if entry.tried["do"] == "tag" and entry.acked is not None}
    yield from (f"tag {tag!r} is missing" for tag in sorted(tags - found.tags))


def _last_of(entries: Sequence[Entry], what: str) -> list[object]:
    """The last acknowledged value and, behind it, values tried since without an acknowledgement: each may stand."""
    tried = [entry for entry in entries if entry.tried["do"] == what]
    acked = [position for position, entry in enumerate(tried) if entry.acked is not None]
    return [entry.tried["value"] for entry in tried[acked[-1] :]] if acked else []


# -- questions ---------------------------------------------------------------------------------------------------


def _lost_questions(entries: Sequence[Entry], found: Found) -> Iterator[str]:
    asks = [entry for entry in _says(entries) if entry.tried["asks"] is not None]
    answers = [entry for entry in entries if entry.tried["do"] == "answer"]
    asked = {entry.tried["asks"] for entry in asks if entry.acked is not None}
    tried = {entry.tried["tool_call_id"] for entry in answers}
    answered = {entry.tried["tool_call_id"] for entry in answers if entry.acked is not None}
    yield from (f"question {name} closed by itself" for name in sorted(asked - tried - found.open_questions))
    yield from (f"question {name} was answered and is open again" for name in sorted(answered & found.open_questions))
    never = found.open_questions - {entry.tried["asks"] for entry in asks}
    yield from (f"question {name} is open and nobody asked it" for name in sorted(never))
    twice = Counter(entry.tried["tool_call_id"] for entry in answers if entry.acked is not None)
    yield from (f"question {name} took {count} answers" for name, count in twice.items() if count > 1)
