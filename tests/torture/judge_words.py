"""What a judge calls that which is not as it should be."""

from __future__ import annotations


class Wrong(AssertionError):
    """`kind`: "lost" (an acknowledged change is missing), "ghost" (something is there that nobody can have written),
    "broken" (the store does not open, does not read, is damaged, or does not go on), "moving" (two looks differ)."""

    def __init__(self, kind: str, what: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {what}")
