"""Two copies of one session become one: `merge(base, mine, theirs)`, pure.

*Base* is the committed state that mine descends from, so that every difference between base and mine is a change that
somebody made, and every difference between base and theirs one that somebody else made. Both kinds survive; where they
touch the same thing, the field's rule decides and the conflict is reported. Nothing in this file may ever look at a
clock, a lock or a storage: no clock decides a merge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from bamboo_sessions._frozen import frozen
from bamboo_sessions.merge_messages import merge_messages
from bamboo_sessions.models.question import PendingQuestion
from bamboo_sessions.models.state import CLOSED_KEPT, Head, MergeRule, State, changed, fields_with, says_the_same
from bamboo_sessions.models.summary import Conflict


@frozen(slots=True)
class Merged:
    """What a merge gives."""

    state: State
    conflicts: tuple[Conflict, ...] = ()

    def adopted(self, mine: State) -> tuple[str, ...]:
        """Names of the fields in which the result is not what `mine` had."""
        if says_the_same(self.state.head, mine.head) and self.state.messages is mine.messages:
            return ()
        changed = [name for name in _REPORTED if getattr(self.state.head, name) != getattr(mine.head, name)]
        if not self.state.messages.same_as(mine.messages):
            changed.append("messages")
        return tuple(changed)


_REPORTED: Final = tuple(
    field.name for field in attrs.fields(Head)
    if field.metadata["merge"] not in (MergeRule.COUNTED, MergeRule.FORWARD, MergeRule.FIXED)
    and field.name not in ("title_version", "metadata_version")
)
_THREE_WAY: Final = fields_with(MergeRule.THREE_WAY)
_AUTHORITATIVE: Final = fields_with(MergeRule.AUTHORITATIVE)
_TITLE: Final = ("title", "title_source", "title_version")

Note = Callable[[str, str, str, str], None]
"""How a rule reports a conflict: field, what, rule, kept."""


def merge(base: State | None, mine: State, theirs: State) -> Merged:
    """The state in which the changes of both sides stand.

    `base` None: nothing is known of a common past, so nothing counts as a deletion: unions, and the rules that need no
    base. With base = theirs the result is mine exactly, with base = mine it is theirs exactly; merging mine into the
    result again changes nothing.
    """
    if base is theirs:
        return Merged(mine)
    if base is mine:
        return Merged(theirs)
    conflicts: list[Conflict] = []

    def note(field: str, what: str, rule: str, kept: str) -> None:
        conflicts.append(Conflict(field, what, rule, kept))

    head = _merge_heads(None if base is None else base.head, mine.head, theirs.head, note)
    messages = merge_messages(None if base is None else base.messages, mine.messages, theirs.messages, note)
    return Merged(State(head, messages), tuple(conflicts))


def _merge_heads(base: Head | None, mine: Head, theirs: Head, note: Note) -> Head:
    made: dict[str, Any] = {"updated_at": _forward(base, mine, theirs)}
    made |= _people(base, mine, theirs, note)
    made |= _questions(base, mine, theirs, note)
    made |= {name: _three_way(name, base, mine, theirs, note) for name in _THREE_WAY}
    for name in fields_with(MergeRule.PER_KEY):
        made[name] = _per_key(name, base, mine, theirs, note)
    return changed(theirs, **made)  # what is fixed or counted is theirs: they are what storage holds


def _forward(base: Head | None, mine: Head, theirs: Head) -> Any:
    if base is not None and base.updated_at == theirs.updated_at:
        return mine.updated_at
    if base is not None and base.updated_at == mine.updated_at:
        return theirs.updated_at
    return max(mine.updated_at, theirs.updated_at)


# -- who changed it wins -----------------------------------------------------------------------------------------


def _three_way(name: str, base: Head | None, mine: Head, theirs: Head, note: Note) -> Any:
    ours, other = getattr(mine, name), getattr(theirs, name)
    before = None if base is None else getattr(base, name)
    if ours == other or ours == before:
        return other
    if other != before:
        note(name, "", "both changed it: the later commit", "mine")
    return ours


def _per_key(name: str, base: Head | None, mine: Head, theirs: Head, note: Note) -> Mapping[str, bytes]:
    before: Mapping[str, bytes] = {} if base is None else getattr(base, name)
    ours: Mapping[str, bytes] = getattr(mine, name)
    other: Mapping[str, bytes] = getattr(theirs, name)
    if ours is other or (base is not None and ours == before):
        return other
    made = dict(other)
    for key in {**before, **ours}:
        was, now, there = before.get(key), ours.get(key), other.get(key)
        if now in (was, there):
            continue
        if there != was:
            note(name, key, "both changed one key: the later commit", "mine")
        if now is None:
            made.pop(key, None)
        else:
            made[key] = now
    return ours if made == ours else made


# -- what people edit --------------------------------------------------------------------------------------------


def _people(base: Head | None, mine: Head, theirs: Head, note: Note) -> dict[str, Any]:
    if base is None:
        return _people_as_a_whole(mine, theirs, note)
    mine_is_newer = mine.metadata_version > theirs.metadata_version
    made = _title(base, mine, theirs, mine_is_newer, note)
    for name in ("pinned", "archived"):
        made[name] = _edited(name, base, mine, theirs, mine_is_newer, note)
    made["tags"] = (theirs.tags | (mine.tags - base.tags)) - (base.tags - mine.tags)
    made["metadata_version"] = max(mine.metadata_version, theirs.metadata_version)
    return made


def _edited(name: str, base: Head, mine: Head, theirs: Head, mine_is_newer: bool, note: Note) -> Any:
    before, ours, other = getattr(base, name), getattr(mine, name), getattr(theirs, name)
    if ours == before or ours == other:
        return other
    if other == before:
        return ours
    note(name, "", "both changed it: the higher metadata_version", "mine" if mine_is_newer else "theirs")
    return ours if mine_is_newer else other


def _title(base: Head, mine: Head, theirs: Head, mine_is_newer: bool, note: Note) -> dict[str, Any]:
    """Text and source are one thing; a title that a person gave beats a generated one before any version is looked at."""
    before, ours, other = ((head.title, head.title_source) for head in (base, mine, theirs))
    if ours == other or ours == before:
        keep_mine = False
    elif other == before:  # a generated title of mine stands here only where a person took theirs away first
        keep_mine = True
    elif "user" in (ours[1], other[1]) and "generated" in (ours[1], other[1]):
        keep_mine = ours[1] == "user"
        note("title", "", "a person's title beats a generated one", "mine" if keep_mine else "theirs")
    else:
        keep_mine = mine_is_newer
        note("title", "", "both changed it: the higher metadata_version", "mine" if keep_mine else "theirs")
    return _title_of(mine if keep_mine else theirs, mine, theirs)


def _title_of(kept: Head, mine: Head, theirs: Head) -> dict[str, Any]:
    made = {name: getattr(kept, name) for name in _TITLE}
    made["title_version"] = max(mine.title_version, theirs.title_version)
    return made


def _people_as_a_whole(mine: Head, theirs: Head, note: Note) -> dict[str, Any]:
    """Without a base nobody can tell an edit from an older value, so the group goes to the higher version as a whole.

    But for one thing: a person's title is never given up for a generated one, whatever the versions say.
    """
    keep_mine = mine.metadata_version > theirs.metadata_version
    kept, other = (mine, theirs) if keep_mine else (theirs, mine)
    made = {name: getattr(kept, name) for name in _AUTHORITATIVE}
    lost = [name for name in ("title", "pinned", "archived", "tags") if getattr(mine, name) != getattr(theirs, name)]
    if other.title_source == "user" and kept.title_source != "user":
        made |= _title_of(other, mine, theirs)
        lost = [name for name in lost if name != "title"]
    if other.metadata_version > 0:
        for name in lost:
            note(name, "", "no common base: the group of the higher metadata_version", "mine" if keep_mine else "theirs")
    return made


# -- questions ---------------------------------------------------------------------------------------------------


def _questions(base: Head | None, mine: Head, theirs: Head, note: Note) -> dict[str, Any]:
    before = {} if base is None else {question.token: question for question in base.questions}
    ours = {question.token: question for question in mine.questions}
    other = {question.token: question for question in theirs.questions}
    gone = {*mine.closed_questions, *theirs.closed_questions}
    gone |= {token for token in before if token not in ours or token not in other}
    open_now = {token: question for token, question in other.items() if token not in gone}
    asked_there = {question.tool_call_id for question in open_now.values()}
    dropped = []
    for token, question in ours.items():
        if token in open_now:
            open_now[token] = _one_question(before.get(token), question, open_now[token], note)
        elif token not in gone and question.tool_call_id not in asked_there:
            open_now[token] = question
        elif token not in gone:
            dropped.append(token)  # two opened at once under one call id become one
            note("questions", question.tool_call_id, "opened twice at once: one stays", "theirs")
    return {"questions": _as_they_were(tuple(open_now.values()), mine.questions, theirs.questions),
            "closed_questions": _closed(base, mine, theirs, dropped)}


def _one_question(before: PendingQuestion | None, ours: PendingQuestion, other: PendingQuestion,
                  note: Note) -> PendingQuestion:
    if ours == other or ours == before:
        return other
    if before is not None and other != before:
        note("questions", ours.tool_call_id, "both changed its text: the later commit", "mine")
    return ours


def _closed(base: Head | None, mine: Head, theirs: Head, dropped: list[str]) -> tuple[str, ...]:
    """Theirs and what I closed since the base, the newest: what theirs has let go of as too old stays gone."""
    known = {*theirs.closed_questions, *(base.closed_questions if base is not None else ())}
    new = [token for token in mine.closed_questions if token not in known]
    if base is None:  # which is newer nobody knows: what closes a question that is open there, then as much as fits
        asked = {question.token for question in theirs.questions}
        closing = [token for token in new if token in asked]
        room = max(0, CLOSED_KEPT - len(theirs.closed_questions) - len(closing) - len(dropped))
        older = [token for token in new if token not in asked]
        new = [*older[len(older) - min(room, len(older)):], *closing]
    if not new and not dropped:
        return theirs.closed_questions
    return (*theirs.closed_questions, *new, *dropped)[-CLOSED_KEPT:]


def _as_they_were(made: tuple[PendingQuestion, ...], *sides: tuple[PendingQuestion, ...]) -> tuple[PendingQuestion, ...]:
    """The very tuple of one side where nothing differs: equal by identity is what makes the next comparison cheap."""
    return next((side for side in sides if side == made), made)
