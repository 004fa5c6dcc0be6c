"""What a search gives back: where the words were found, and the text around them."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from bamboo_sessions.models.summary import SessionSummary


@attrs.frozen(slots=True)
class SearchHit:
    """One title or one message that has every word that was asked for."""

    session: SessionSummary
    index: int | None
    """The message's place in the conversation, from 0; None: the title."""
    message_id: str | None
    """None: the title."""
    role: str | None
    """Who said it; None: the title."""
    snippet: str
    """The text around the words, on one line; "…" where something was left out."""
    marks: tuple[tuple[int, int], ...]
    """Where in the snippet the words are: (begin, end), in order, without overlaps."""

    def highlighted(self, before: str = "**", after: str = "**", escape: Callable[[str], str] = str) -> str:
        """The snippet with each of the words between `before` and `after`.

        `escape` is called on every piece of text, and not on what is put between them: `hit.highlighted("<mark>", "</mark>",
        html.escape)` is safe to show.
        """
        parts, at = [], 0
        for begin, end in self.marks:
            parts += [escape(self.snippet[at:begin]), before, escape(self.snippet[begin:end]), after]
            at = end
        return "".join([*parts, escape(self.snippet[at:])])


@attrs.frozen(slots=True)
class SearchPage:
    """Some of what a search found: sessions in the order of their last change, newest first."""

    items: tuple[SearchHit, ...]
    next_cursor: str | None = None
    """Give it to the next call of `SessionRepository.search`; None: this was the last page."""
