"""The caller's own metadata: a plain dict that refuses, at the door, what could not be saved later.

The head keeps each value packed. A copy's values are unpacked when its metadata is first looked at and are then the
caller's own: nested changes in place count, because a save packs what was opened and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from bamboo_sessions.models.values import check, checked_text, pack, unpack


def _where(key: object) -> str:
    return f"metadata[{key!r}]"


class Metadata(dict[str, Any]):
    """A dict whose values are JSON; assigning anything else raises `InvalidValue`."""

    @classmethod
    def unpacked(cls, packed: Mapping[str, bytes]) -> Metadata:
        """The caller's own copy of a head's metadata."""
        made = cls()
        for key, value in packed.items():
            dict.__setitem__(made, key, unpack(value))
        return made

    def packed(self, known: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """These values as a head keeps them; `known` itself where nothing changed."""
        made = {checked_text(key, "metadata key"): pack(value, _where(key)) for key, value in self.items()}
        return known if made == known and list(made) == list(known) else made

    def follow(self, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
        """Take over what differs between two heads, in place: references that the caller holds stay good."""
        for key in before.keys() - after.keys():
            dict.pop(self, key, None)
        for key, value in after.items():
            if before.get(key) != value:
                dict.__setitem__(self, key, unpack(value))

    def __setitem__(self, key: str, value: Any) -> None:
        checked_text(key, "metadata key")
        check(value, _where(key))
        super().__setitem__(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """As in a dict; the default is checked like an assignment."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As in a dict; all values are checked before the first one is taken."""
        new = dict(*args, **kwargs)
        for key, value in new.items():
            checked_text(key, "metadata key")
            check(value, _where(key))
        super().update(new)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return dict, (dict(self),)
