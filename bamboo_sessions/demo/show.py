"""What the demonstration looks like on a terminal, and, in plain lines, in a file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bamboo_sessions.demo.judge import Row
from bamboo_sessions.demo.run import Outcome
from bamboo_sessions.demo.scripts import Place

ROWS_SHOWN: Final = 30
FINDINGS_SHOWN: Final = 20
PLAIN_EVERY_SECONDS: Final = 2.0
PLAIN_WIDTH: Final = 110


def make_console() -> Console:
    """Standard output; where it is no terminal, wide enough that the table does not depend on whoever reads it."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


class Display:
    """A `Watcher`: a progress bar, or a line every two seconds where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TextColumn("turns"),
                             TimeElapsedColumn(), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("turns", total=None)
        self._printed = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._bar.stop()

    def progress(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
        if not self._console.is_terminal and time.monotonic() - self._printed >= PLAIN_EVERY_SECONDS:
            self._printed = time.monotonic()
            self._console.print(f"{done:,} of {total:,} turns")

    def happened(self, what: str) -> None:
        self._console.print(escape(what))


def show_outcome(console: Console, outcome: Outcome, place: Place) -> None:
    """The table, what was lost, where the files lie, and the verdict in one line."""
    console.print(_table(outcome.rows))
    _show_findings(console, outcome.rows)
    console.print(f"sessions: {place.sessions}", f"logbooks: {place.folder / 'logbooks'}", sep="\n", soft_wrap=True,
                  markup=False)
    stored, lost = sum(row.stored for row in outcome.rows), sum(len(row.lost) for row in outcome.rows)
    refused = sum(len(row.failed) for row in outcome.rows)
    verdict = "[green]nothing was lost[/]" if outcome.good else f"[red]{lost} lost, {refused} refused[/]"
    kills = f"{outcome.kills} kill{'' if outcome.kills == 1 else 's'}"
    console.print(f"{verdict}: {stored:,} messages in {len(outcome.rows):,} sessions, {kills}, {outcome.seconds:.1f} s")


def _table(rows: Sequence[Row]) -> Table:
    shown = choose(rows)
    table = Table(show_footer=True)
    total = f"all {len(rows):,}" if len(shown) == len(rows) else f"all {len(rows):,} ({len(shown)} shown)"
    table.add_column("session", total, overflow="ellipsis", no_wrap=True, max_width=40)
    for name in ("attempted", "stored", "lost", "merged", "conflicts"):
        table.add_column(name, f"{sum(_count(row, name) for row in rows):,}", justify="right")
    for row in shown:
        counts = [f"{_count(row, name):,}" for name in ("attempted", "stored", "lost", "merged", "conflicts")]
        table.add_row(escape(row.session), *counts, style="red" if row.troubled else None)
    return table


def _count(row: Row, column: str) -> int:
    value = getattr(row, column)
    return value if isinstance(value, int) else len(value)


def choose(rows: Sequence[Row]) -> list[Row]:
    """The rows for the table: those with trouble first, then the busiest; at most `ROWS_SHOWN`."""
    return sorted(rows, key=lambda row: (not row.troubled, -row.attempted, row.session))[:ROWS_SHOWN]


def _show_findings(console: Console, rows: Sequence[Row]) -> None:
    findings = [f"{row.session}: {what}" for row in rows for what in (*row.lost, *row.failed)]
    for finding in findings[:FINDINGS_SHOWN]:
        console.print(f"[red]{escape(finding)}[/]", soft_wrap=True)
    if len(findings) > FINDINGS_SHOWN:
        console.print(f"[red]and {len(findings) - FINDINGS_SHOWN:,} more[/]")
