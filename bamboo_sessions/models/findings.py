"""What a check of a storage finds, and what a repair did about it: plain answers for people and scripts."""

from __future__ import annotations

from typing import Any, Literal

import attrs

Severity = Literal["damage", "leftover"]


@attrs.frozen(slots=True)
class Finding:
    """One thing on disk that is not as a healthy, idle store has it."""

    session_id: str | None
    """Whose it is; None: the store's own, or of a session whose id cannot be read."""
    path: str
    offset: int
    """The byte at which it begins; 0 where it concerns the whole file or folder."""
    kind: str
    """A word for scripts; it stays the same from version to version."""
    what: str
    """A sentence for people."""
    since: int | None
    """The newest revision that is certain to be whole; None: none is, or it is no matter of revisions."""
    severity: Severity
    """"damage": stored words are unreadable, or may be missing. "leftover": harmless; something that a dead process left and
    the next writer mends, or that somebody should know of."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return attrs.asdict(self)

    def __str__(self) -> str:
        since = "" if self.since is None else f" (whole up to revision {self.since})"
        return f"{self.severity}: {self.path}, byte {self.offset}: {self.what}{since} [{self.kind}]"


@attrs.frozen(slots=True)
class Repair:
    """What a repair did with one session."""

    session_id: str
    changed: bool
    """False: nothing was damaged, and nothing was written."""
    revision: int | None
    """Of the repaired state; None where nothing was changed."""
    found: tuple[Finding, ...] = ()
    """What was wrong."""
    kept: tuple[str, ...] = ()
    """What is in the repaired session, a sentence each."""
    not_usable: tuple[str, ...] = ()
    """What is not, and why."""
    quarantined: tuple[str, ...] = ()
    """Where the damaged files lie, byte for byte."""

    @property
    def lines(self) -> tuple[str, ...]:
        """All of it, to be printed."""
        if not self.changed:
            return (f"{self.session_id!r} is not damaged; nothing was changed", *(f"found {one}" for one in self.found))
        return (*(f"found {one}" for one in self.found), *(f"kept {one}" for one in self.kept),
                *(f"not usable: {one}" for one in self.not_usable),
                *(f"the damaged file is kept as {path}" for path in self.quarantined),
                f"{self.session_id!r} is whole again at revision {self.revision}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return attrs.asdict(self)
