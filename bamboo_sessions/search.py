"""What a search finds, and the text that it shows of it. Pure.

What is found is decided here, over a title or a message, for every storage alike: it has every word that was asked for. An
index says where that may be so, and no more; what it names is read and looked at again. So no two storages find different
things, and an index may forget details that would double its size, such as the order of the words.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import attrs
import orjson

from bamboo_sessions._json import loads
from bamboo_sessions.errors import InvalidValue
from bamboo_sessions.filters import Filter
from bamboo_sessions.listing import summary_of
from bamboo_sessions.models.hits import SearchHit, SearchPage
from bamboo_sessions.models.message import Role
from bamboo_sessions.models.values import decode_text
from bamboo_sessions.search_words import LONGEST, SEARCHED, of_run, pieces

TITLE: Final = -1
"""The place of a title, before the first message's."""
LONGEST_QUERY: Final = 1000
"""Characters of a query."""
_ASKED: Final = 64  # terms that an index is asked for; what it names is looked at again, by all of them
_WIDTH, _BEFORE = 160, 48
_BEGUN: Final = 100  # beginnings of an excerpt that are looked at
_NOT_SAID: Final = (Role.SYSTEM, Role.DEVELOPER)

Span = tuple[int, int]
LeaveOut = Callable[[str, Exception], object]


# -- what is asked for -------------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Query:
    """The words of a user, taken apart; all of them have to be in the same title or the same message."""

    words: frozenset[str]
    """Whole words, folded."""
    runs: frozenset[str]
    """What has to be somewhere in a script without spaces between words."""
    begins: str | None = None
    """How another word has to begin."""

    @classmethod
    def read(cls, words: str, *, prefix: bool = False) -> Query:
        """`prefix`: the last word may be the beginning of a longer one. Nothing in `words` has a meaning but its letters and
        digits. Raises `InvalidValue` where it has none, and for more than a thousand characters."""
        if not isinstance(words, str):
            raise InvalidValue("words", f"a text is needed, not {type(words).__name__}")
        if len(words) > LONGEST_QUERY:
            raise InvalidValue("words", f"at most {LONGEST_QUERY} characters, not {len(words)}")
        found, runs = _taken_apart(words)
        if not found and not runs:
            raise InvalidValue("words", "there is no letter and no digit in it")
        last = found.pop() if prefix and found and _ends_with_word(words) else None
        return cls(frozenset(found), frozenset(runs), last)

    @property
    def terms(self) -> tuple[tuple[str, bool], ...]:
        """(term, whether a term that begins with it will do) for an index: what is found has all of them."""
        of_runs = {(run, True) if len(run) == 1 else (term, False) for run in self.runs for term in _inner(run)}
        whole = {(word[:LONGEST], False) for word in self.words}
        begun = [] if self.begins is None else [(self.begins[:LONGEST], True)]
        return tuple([*begun, *sorted(whole), *sorted(of_runs)][:_ASKED])

    def spans(self, text: str) -> list[Span] | None:
        """Where the words are in a text, in order; None where one of them is not there."""
        missing, lacking, spans, run = set(self.words), set(self.runs), [], _Run()  # a letter may be asked for as both
        begun = self.begins is None
        for begin, end, parts, is_sign in pieces(text[:SEARCHED]):
            if self.runs and not (is_sign and run.goes_on(begin)):
                spans += run.found(self.runs, lacking)
                run = _Run()
            if is_sign:
                run.take(begin, end, "".join(parts))
                continue
            starts = self.begins is not None and any(part.startswith(self.begins) for part in parts)
            if starts or not self.words.isdisjoint(parts):
                begun = begun or starts
                missing.difference_update(parts)
                spans.append((begin, end))
        spans += run.found(self.runs, lacking)
        return None if missing or lacking or not begun else _joined(sorted(spans))


def _taken_apart(text: str) -> tuple[list[str], list[str]]:
    """(words, runs) in order."""
    words: list[str] = []
    runs: list[str] = []
    end = -1
    for begin, stop, parts, is_sign in pieces(text):
        if not is_sign:
            words.extend(parts)
        elif begin == end:
            runs[-1] += "".join(parts)
        else:
            runs.append("".join(parts))
        end = stop if is_sign else -1
    return words, runs


def _ends_with_word(words: str) -> bool:
    last = None
    for piece in pieces(words):
        last = piece
    return last is not None and not last[3]


def _inner(run: str) -> list[str]:
    """What a run's surroundings do not change."""
    terms = list(of_run(run))
    return terms if len(terms) == 1 else terms[:-1]


class _Run:
    """Signs without anything in between."""

    def __init__(self) -> None:
        self._signs: list[Span] = []
        self._text = ""
        self._of: list[int] = []  # which sign each character belongs to, once folded

    def goes_on(self, begin: int) -> bool:
        return bool(self._signs) and self._signs[-1][1] == begin

    def take(self, begin: int, end: int, text: str) -> None:
        self._of += [len(self._signs)] * len(text)
        self._signs.append((begin, end))
        self._text += text

    def found(self, wanted: Iterable[str], missing: set[str]) -> list[Span]:
        spans = []
        for word in wanted:
            at = self._text.find(word)
            while at >= 0:
                missing.discard(word)
                spans.append((self._signs[self._of[at]][0], self._signs[self._of[at + len(word) - 1]][1]))
                at = self._text.find(word, at + 1)
        return spans


def _joined(spans: list[Span]) -> list[Span]:
    made: list[Span] = []
    for begin, end in spans:
        if made and begin < made[-1][1]:
            made[-1] = made[-1][0], max(end, made[-1][1])
        else:
            made.append((begin, end))
    return made


# -- what can be found -------------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Said:
    """What a search sees of a message."""

    message_id: str
    role: str
    text: str


def said(line: bytes) -> Said | None:
    """The text of a stored message; None where it has none, or none to be searched.

    Searched is what was said in the conversation: text, and the text of content parts, of every role but system and
    developer. A tool's arguments, names, ids and the keys around them are not. A line that is no message is for whoever
    reads the session; neither a save nor a search of others fails because of it.
    """
    try:
        envelope = loads(line)
        chat = envelope["m"] if "m" in envelope else decode_text(envelope["text"])
        text = None if chat.get("role") in _NOT_SAID else _text_of(chat.get("content"))
        return Said(str(envelope["id"]), str(chat.get("role") or ""), text) if text else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _text_of(content: object) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(part for part in parts if isinstance(part, str))


def title_of(head: dict[str, Any]) -> str:
    """Of a stored head; "" where there is none."""
    title = head.get("title")
    return title if isinstance(title, str) else ""


def hit(query: Query, head: dict[str, Any], count: int, at: int, line: bytes | None) -> SearchHit | None:
    """What was found at a place of a session; None where the words are not there. Raises what `summary_of` raises."""
    heard = said(line) if line is not None else None
    text = title_of(head) if at == TITLE else heard.text if heard is not None else ""
    spans = query.spans(text) if text else None
    if spans is None:
        return None
    snippet, marks = excerpt(text[:SEARCHED], spans)
    if at == TITLE or heard is None:
        return SearchHit(summary_of(head, count), None, None, None, snippet, marks)
    return SearchHit(summary_of(head, count), at, heard.message_id, heard.role, snippet, marks)


# -- what is shown of it -----------------------------------------------------------------------------------------


def excerpt(text: str, spans: Sequence[Span]) -> tuple[str, tuple[Span, ...]]:
    """The part of a text with the most of these places in it, on one line, and where they are in that."""
    starts = [_start(text, at) for at, _ in spans[:_BEGUN]]
    near = spans[: _BEGUN + _WIDTH]  # no more of them can be in front of the end of the last one
    begin = max(starts, key=lambda start: (sum(start <= at < start + _WIDTH for at, _ in near), -start))
    shown = [one for one in near if begin <= one[0] < begin + _WIDTH]
    end = _end(text, begin + _WIDTH, shown[-1][1])
    ahead, behind = "…" if begin else "", "…" if end < len(text) else ""
    shift = len(ahead) - begin
    return ahead + _on_one_line(text[begin:end]) + behind, tuple((one + shift, min(other, end) + shift) for one, other in shown)


def _start(text: str, at: int) -> int:
    """Some characters before it, where a word begins, if there is such a place."""
    least = max(at - _BEFORE, 0)
    if not least:
        return 0
    return next((place for place in range(least, at + 1) if text[place - 1].isspace() and not text[place].isspace()), least)


def _end(text: str, most: int, least: int) -> int:
    """There, or a little before it, where a word ends."""
    if most >= len(text):
        return len(text)
    return next((place for place in range(most, max(most - 20, least - 1), -1) if text[place].isspace()), most)


def _on_one_line(text: str) -> str:
    """As long as it was. Nothing in it moves a terminal's cursor, and all of it is Unicode."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\ufffd" if "\ud800" <= c <= "\udfff" else " " for c in text)


# -- pages -------------------------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Spot:
    """How far a search has come: sessions by their last change, newest first, and in each of them onwards."""

    updated_at: str
    session_id: str
    at: int

    @classmethod
    def read(cls, cursor: str | None, limit: int) -> Spot | None:
        """None: this is the beginning. Raises `InvalidValue` for a cursor that no search gave, or limit < 1."""
        if limit < 1:
            raise InvalidValue("limit", f"at least 1 is needed, not {limit}")
        if cursor is None:
            return None
        try:
            updated_at, session_id, at = orjson.loads(urlsafe_b64decode(cursor))
        except (ValueError, TypeError, binascii.Error) as error:
            raise InvalidValue("cursor", "not one that a search gave") from error
        texts = isinstance(updated_at, str) and isinstance(session_id, str) and "\0" not in updated_at + session_id
        if not texts or type(at) is not int or not TITLE <= at < 2**31:
            raise InvalidValue("cursor", "not one that a search gave")
        return cls(updated_at, session_id, at)

    def written(self) -> str:
        """As a cursor."""
        return urlsafe_b64encode(orjson.dumps([self.updated_at, self.session_id, self.at])).decode("ascii")


Found = tuple[Spot, SearchHit]


def cut(found: Sequence[Found], limit: int) -> SearchPage:
    """The page of what comes next, of which there are more than `limit` where there is more."""
    more = len(found) > limit
    taken = found[:limit]
    return SearchPage(tuple(one for _, one in taken), taken[-1][0].written() if more else None)


def page(sessions: Iterable[tuple[dict[str, Any], Sequence[bytes]]], query: Query, wanted: Filter, limit: int,
         cursor: str | None, leave_out: LeaveOut = lambda _id, _error: None) -> SearchPage:
    """One page by a look at everything: (head, messages) of every session. The model of every index."""
    at = Spot.read(cursor, limit)
    found: list[Found] = []
    for head, lines in sorted(_taken(sessions, wanted, leave_out), key=lambda one: stand(one[0]), reverse=True):
        if at is None or stand(head) <= (at.updated_at, at.session_id):
            found += in_session(query, head, lines, at, leave_out)
        if len(found) > limit:
            break
    return cut(found, limit)


def _taken(sessions: Iterable[tuple[dict[str, Any], Sequence[bytes]]], wanted: Filter, leave_out: LeaveOut
           ) -> Iterator[tuple[dict[str, Any], Sequence[bytes]]]:
    for head, lines in sessions:
        try:
            if wanted.takes(head) and all(isinstance(text, str) for text in stand(head)):
                yield head, lines
        except (KeyError, TypeError) as error:
            leave_out(str(head.get("id")), error)


def stand(head: dict[str, Any]) -> tuple[str, str]:
    """Its place among all that are found."""
    return head["updated_at"], head["id"]


def in_session(query: Query, head: dict[str, Any], lines: Sequence[bytes], after: Spot | None, leave_out: LeaveOut,
               places: Iterable[int] | None = None) -> Iterator[Found]:
    """What is found in one session behind `after`; at these places only, where they are known."""
    updated_at, session_id = stand(head)
    last = after.at if after is not None and (after.updated_at, after.session_id) == (updated_at, session_id) else None
    for at in range(TITLE, len(lines)) if places is None else places:
        if (last is not None and at <= last) or at >= len(lines):
            continue
        try:
            one = hit(query, head, len(lines), at, None if at == TITLE else lines[at])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            leave_out(session_id, error)
            return
        if one is not None:
            yield Spot(updated_at, session_id, at), one
