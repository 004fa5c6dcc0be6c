"""What a storage of records should hold, in plain Python: a commit applied to a dict and a list, read literally.

Nothing of the codec or of any storage is used here, so that the storage and this page cannot be wrong in the same way.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import attrs

from bamboo_sessions.storages.protocol import OPS_KEPT, Change, Commit, Delta, Record, Unchanged

Json = dict[str, Any]

TIME = "2026-11-21T09:30:00.123456Z"
BIRTH = "birthbirthbirth0"


def line(word: str) -> bytes:
    """An encoded message, as a codec writes it."""
    return b'{"id":"m-%b","m":{"role":"user","content":"%b"}}' % (word.encode(), word.encode())


def first(session_id: str, *words: str, birth: str = BIRTH, op: str = "op-1", **fields: Any) -> Commit:
    """The commit that makes a session."""
    head = {"id": session_id, "birth": birth, "created_at": TIME, "updated_at": TIME, **fields}
    return Commit(session_id, None, Change(1, op, 0, [line(word) for word in words], {"set": head}))


def later(session_id: str, revision: int, keep: int, *words: str, birth: str = BIRTH, op: str | None = None,
          head: Json | None = None) -> Commit:
    """The commit that makes `revision` of the one before: keep so many messages, add these, change the head."""
    change = Change(revision, op or f"op-{revision}", keep, [line(word) for word in words], head or {})
    return Commit(session_id, (birth, revision - 1), change)


@attrs.define
class Page:
    """One state of one record."""

    head: Json = attrs.field(factory=dict)
    messages: list[bytes] = attrs.field(factory=list)
    ops: list[str] = attrs.field(factory=list)

    def after(self, change: Change) -> Page:
        """The state that a change makes of this one."""
        head = {**patched(self.head, change.head), "revision": change.revision}
        return Page(head, [*self.messages[: change.keep], *change.add], [*self.ops, change.op][-OPS_KEPT:])

    def as_seen(self, answer: Record | Delta | Unchanged | None) -> Page:
        """What a reader knows who knew this state and was given that answer."""
        if isinstance(answer, Unchanged):
            return self
        if isinstance(answer, Delta):
            page = self
            for change in answer.changes:
                page = page.after(change)
            return page
        assert isinstance(answer, Record), f"expected a session, found {answer!r}"
        return Page(deepcopy(answer.head), list(answer.messages), list(answer.ops))


def written(*commits: Commit) -> Page:
    """The state after these commits to one session."""
    page = Page()
    for commit in commits:
        page = page.after(commit.change)
    return page


def patched(head: Json, change: Json) -> Json:
    """The head that a change makes: what is set, what is unset, and the same inside its sections."""
    made = deepcopy(head)
    made.update(deepcopy(change.get("set", {})))
    for name in change.get("unset", []):
        made.pop(name, None)
    for name, inner in change.get("in", {}).items():
        section = patched(made.get(name, {}), inner)
        made.pop(name, None)
        if section:
            made[name] = section
    return made
