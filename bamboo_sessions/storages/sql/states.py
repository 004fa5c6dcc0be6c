"""Between rows and records: a head taken apart into columns, the stamp of a state, and what leads from one to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from bamboo_sessions._frozen import frozen
from bamboo_sessions._json import loads
from bamboo_sessions.storages.protocol import OPS_KEPT, Change, Delta, Head, HeadChange

Names = tuple[str, ...]
COLUMN: Final = 100
"""Characters of a text that a column keeps of a head."""
UNTRACKED: Final = -1
"""For `rewrites`, where it is not known what became of the messages since: never equal to a count."""


@frozen(slots=True)
class SqlStamp:
    """One state of one session."""

    birth: str
    revision: int
    op: str
    messages: int
    """How many there were."""
    rewrites: int
    """While this count stays, they are the first of those that are there."""
    fields: Names
    """Which fields the head had, so that those that went away since can be named."""


@frozen(slots=True)
class Known:
    """A state as this object last met it: enough to make the next one without asking for it."""

    stamp: SqlStamp
    ops: Names
    head: Head | str
    """As this object's own commit made it, which nobody else holds; else as it was read."""
    size: int
    """Of the head, as text."""
    own: int = 0
    """So many commits in a row, up to this state, were this object's: nobody else has been about."""


def packed_ops(ops: Names) -> str:
    """As a column keeps them."""
    return orjson.dumps(ops).decode()


def unpacked_ops(text: str) -> Names:
    """The reverse."""
    return tuple(loads(text))


def needle(op: str) -> str:
    """What to look for in a column of operation ids; quoted, so that no id is found inside a longer one."""
    return orjson.dumps(op).decode()


def after(ops: Names, op: str) -> Names:
    """With one more, at most 64."""
    return (*ops, op)[-OPS_KEPT:]


def packed_head(head: Head) -> str:
    """JSON text without NUL and without surrogates, whatever it says: orjson escapes the one and refuses the other."""
    return orjson.dumps(head).decode()


_LISTED: Final = frozenset({"birth", "created_at", "model", "provider", "context_id", "parent_id", "pinned", "archived", "questions"})


def touches_columns(change: HeadChange) -> bool:
    """Whether a change of a head may change more of `columns` than the time, which it always does."""
    return not all(_LISTED.isdisjoint(names) for names in change.values())


def columns(head: Head) -> dict[str, Any]:
    """What lists filter and sort by. A projection: the text beside it is what the session says."""
    return {
        **{name: as_column(head.get(name)) or "" for name in ("created_at", "updated_at")},
        **{name: as_column(head.get(name)) for name in ("model", "provider", "context_id", "parent_id")},
        "pinned": bool(head.get("pinned", False)),
        "archived": bool(head.get("archived", False)),
        "questions": len(head.get("questions") or ()),
    }


def as_column(value: object) -> str | None:
    """PostgreSQL has no NUL in its texts, and no entries in an index beyond 2.7 kB, of which a session id may take 2. Whoever
    compares such a field looks into the head as well."""
    return value[:COLUMN].replace("\0", "\ufffd") if isinstance(value, str) else None


def difference(known: SqlStamp, ops: Names, head: Head, stamp: SqlStamp, added: Sequence[bytes]) -> Delta | None:
    """What was committed since `known`, as one step that does it all behind steps that do nothing but bear the ids.

    The last step names every field: heads are small, and keeping each commit's own difference would write it twice. None
    where the operation ids do not lead from there to here.
    """
    if known.op not in ops:
        return None
    since = ops[ops.index(known.op) + 1 :]
    if not since or known.revision + len(since) != stamp.revision:
        return None
    gone = [name for name in known.fields if name not in head]
    change = {"set": {name: value for name, value in head.items() if name != "revision"}, **({"unset": gone} if gone else {})}
    steps = [Change(known.revision + 1 + at, op, known.messages, (), {}) for at, op in enumerate(since[:-1])]
    return Delta([*steps, Change(stamp.revision, since[-1], known.messages, added, change)], stamp)
