"""What a session's state in one store is to its state in another: the same, an earlier one, or one that went its own way.

Equal means the same bytes. A birth and a revision only say where two states may be equal: both houses count on by
themselves, so that two branches of one length have the same numbers and not the same content. That one state is an
earlier one of the other is shown by the operation ids, or not at all.

Somebody's own storage may keep no births and revisions. Its sessions get a birth that each run finds again and the revision
that comes next in the target, and messages that the target has already keep the ids that they have there. Pure.
"""

from __future__ import annotations

import operator
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

import attrs

from bamboo_sessions.ids import new_token
from bamboo_sessions.models import Message
from bamboo_sessions.storages.protocol import Change, Commit, Head, HeadChange, Record

Place = tuple[str, int]
"""(birth, revision)"""

_OF_A_BIRTH: Final = 12  # bytes, as `ids.new_birth` has them


def place_of(head: Head) -> Place:
    """Where in which life of the session this is; empty or 0 where the storage keeps no such thing."""
    return head.get("birth", ""), head.get("revision", 0)


def is_told_apart(place: Place) -> bool:
    """Whether the storage counts: else every state of a session looks like every other one."""
    birth, revision = place
    return bool(birth) and revision > 0


def is_same(there: object, record: Record) -> bool:
    """Byte for byte."""
    return isinstance(there, Record) and there.head == record.head and tuple(there.messages) == tuple(record.messages)


def apart(there: Record, record: Record) -> str | None:
    """Why the target's state, which is not the same, is no earlier one of the source's; None: it is."""
    (birth, revision), (other, newest) = place_of(there.head), place_of(record.head)
    if not birth:
        return "the target keeps no births and revisions, and has not just what the source has: nothing shows what it is"
    if birth != other:
        return "the target has another session of this id"
    if revision > newest:
        return f"the target has revision {revision}, the source {newest}: it was written to, or the source is an older copy"
    if revision == newest:
        return f"both have revision {revision}, and not the same one: both were written to, or one of them is damaged"
    if not there.ops or not record.ops:
        whose = "source" if there.ops else "target"
        return (f"the target has revision {revision}, the source {newest}, and the {whose} keeps no operation ids that would "
                "show whether the one led to the other")
    if there.ops[-1] not in record.ops:
        return f"the target's revision {revision} is not the source's: both were written to, or over 64 commits lie between them"
    return None


def damage(record: Record) -> str | None:
    """Which of its messages no version writes. A copy of it would be as damaged, in a house that vouches for its bytes."""
    for number, line in enumerate(record.messages):
        try:
            message = Message.from_line(line)
            whole = isinstance(message.to_dict(), dict) and bool(message.id)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            return f"message {number} of the source is damaged"
    return None


def told_apart(record: Record, there: Record | None) -> Record:
    """What the source has, as a target keeps it; the record itself, where the source keeps births and revisions."""
    if is_told_apart(place_of(record.head)):
        return record
    birth, revision = record.head.get("birth") or _birth_of(record.head), 0 if there is None else place_of(there.head)[1]
    messages = record.messages if there is None else _as_there(record.messages, there.messages)
    made = attrs.evolve(record, head={**record.head, "birth": birth, "revision": revision}, messages=messages)
    if is_same(there, made):
        return made
    return attrs.evolve(made, head={**made.head, "revision": revision + 1})


def commit_of(record: Record, before: Record | None) -> Commit:
    """The one step that makes the whole record of what is there."""
    keep = 0 if before is None else _common(before.messages, record.messages)
    (_, revision), op = place_of(record.head), record.ops[-1] if record.ops else new_token()
    change = Change(revision, op, keep, list(record.messages[keep:]), _head_change(record.head, before))
    return Commit(record.head["id"], None if before is None else place_of(before.head), change, anew=before is None)


def _birth_of(head: Head) -> str:
    """A random one would be a stranger to the next run, and what was deleted from the target would come back."""
    name = f"{head['id']}\0{head.get('created_at', '')}"
    return urlsafe_b64encode(blake2b(name.encode(), digest_size=_OF_A_BIRTH).digest()).decode("ascii")


def _as_there(messages: Sequence[bytes], there: Sequence[bytes]) -> list[bytes]:
    """Such a storage gives its messages new ids with every reading: up to the first that says something else, they are known."""
    known = _common(messages, there, _says_as)
    return [*there[:known], *messages[known:]]


def _says_as(a: bytes, b: bytes) -> bool:
    return a == b or Message.from_line(a).says_as(Message.from_line(b))


def _common(before: Sequence[bytes], after: Sequence[bytes], same: Callable[[bytes, bytes], bool] = operator.eq) -> int:
    """How many messages in front are the same."""
    pairs = zip(before, after, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if not same(a, b)), min(len(before), len(after)))


def _head_change(head: Head, before: Record | None) -> HeadChange:
    gone = [] if before is None else [name for name in before.head if name not in head]
    return {"set": head, "unset": gone} if gone else {"set": head}
