"""What `bamboo-sessions check`, `repair`, `copy` and `search` do: results as text or as lines of JSON, and the exit code.

What takes long shows how far it is, on a terminal only. JSON goes out line by line as findings come, so that a
pipe sees the first one early.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from bamboo_sessions import (
    CopyReport,
    InvalidValue,
    JsonFileStorage,
    SearchHit,
    SearchPage,
    SessionError,
    SessionRepository,
    copy_sessions,
)
from bamboo_sessions.models.findings import Finding

FINE, DAMAGED, BAD_USAGE = 0, 1, 2


def check(path: Path, session_id: str | None, *, as_json: bool) -> int:
    """Print every finding; 1 where one of them is damage."""
    if not _is_store(path):
        return _refuse(f"{path}: no store is there")
    try:
        with _opened(path) as storage, _progress(quiet=as_json) as told:
            findings = storage.check(session_id, progress=told)
            damaged = (_as_lines if as_json else _as_table)(findings)
    except SessionError as error:
        return _failed(str(error), as_json=as_json)
    return DAMAGED if damaged else FINE


def repair(path: Path, session_id: str, *, as_json: bool) -> int:
    """Print what was done, line by line; 1 where it could not be."""
    if not _is_store(path):
        return _refuse(f"{path}: no store is there")
    try:
        with _opened(path) as storage:
            made = storage.repair(session_id)
    except SessionError as error:
        return _failed(str(error), as_json=as_json)
    if as_json:
        typer.echo(json.dumps(made.to_dict()))
    else:
        for line in made.lines:
            typer.echo(line)
    return FINE


def copy(source: str, target: str, *, as_json: bool) -> int:
    """Print what was copied; 1 where not everything was."""
    if "://" not in source and not _is_store(Path(source)):
        return _refuse(f"{source}: no store is there")
    try:
        with _progress(quiet=as_json) as told:
            report = copy_sessions(source, target, progress=told)
    except InvalidValue as error:
        return _refuse(str(error))
    except SessionError as error:
        return _failed(str(error), as_json=as_json)
    for line in [json.dumps(report.to_dict())] if as_json else _told_of(report):
        typer.echo(line)
    return FINE if report.settled and not report.problems else DAMAGED


def search(store: str, words: str, limit: int, *, prefix: bool, as_json: bool) -> int:
    """Print where the words are; 1 where they are nowhere."""
    if "://" not in store and not _is_store(Path(store)):
        return _refuse(f"{store}: no store is there")
    try:
        with SessionRepository.open(store) as repo:
            page = repo.search(words, limit, prefix=prefix)
    except InvalidValue as error:
        return _refuse(str(error))
    except SessionError as error:
        return _failed(str(error), as_json=as_json)
    if as_json:
        for hit in page.items:
            typer.echo(json.dumps(_as_object(hit)))
    else:
        _show(page)
    return FINE if page.items else DAMAGED


def _as_object(hit: SearchHit) -> dict[str, object]:
    return {"session_id": hit.session.id, "title": hit.session.title, "index": hit.index, "message_id": hit.message_id, "role": hit.role,
            "updated_at": hit.session.updated_at.isoformat(), "snippet": hit.snippet, "marks": hit.marks}


def _show(page: SearchPage) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, soft_wrap=True)
    for hit in page.items:
        where = "title" if hit.index is None else f"{hit.index} {hit.role}"
        text = Text(hit.snippet)
        for begin, end in hit.marks:
            text.stylize("bold reverse", begin, end)
        console.print(Text(f"{hit.session.id}  {where}  "), text, sep="")
    if not page.items:
        typer.echo("nothing found")
    elif page.next_cursor is not None:
        typer.echo("there is more: --limit shows it")


def _told_of(report: CopyReport) -> Iterator[str]:
    yield f"{report.copied} copied, {report.updated} brought up to date, {report.same} there already, {len(report.problems)} not copied"
    if report.usage_lines:
        yield f"{report.usage_lines} lines of token usage"
    yield from (f"{problem.session_id!r}: {problem.why}" if problem.session_id else problem.why for problem in report.problems)
    if not report.settled:
        yield "writers changed more than could be followed: run it again"


def _is_store(path: Path) -> bool:
    """To open a store where there is none would make one."""
    return (path / "store.json").exists() or (path / "sessions").is_dir()


@contextmanager
def _opened(path: Path) -> Iterator[JsonFileStorage]:
    storage = JsonFileStorage(path)
    try:
        yield storage
    finally:
        storage.close()


@contextmanager
def _progress(*, quiet: bool) -> Iterator[_Told]:
    with Progress(console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty()) as shown:
        yield _Told(shown)


class _Told:
    """The progress callback: a bar from the first session on."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._task = shown.add_task("sessions", total=None)

    def __call__(self, done: int, total: int) -> None:
        self._shown.update(self._task, completed=done, total=total)


def _as_lines(findings: Iterable[Finding]) -> int:
    damaged = 0
    for finding in findings:
        damaged += finding.severity == "damage"
        typer.echo(json.dumps(finding.to_dict()))
    return damaged


def _as_table(findings: Iterable[Finding]) -> int:
    table = Table("session", "severity", "kind", "where", "whole up to", "what")
    counts = {"damage": 0, "leftover": 0}
    for one in findings:
        counts[one.severity] += 1
        since = "" if one.since is None else f"revision {one.since}"
        where = f"{one.path}, byte {one.offset}" if one.offset else one.path
        row = (one.session_id or "", one.severity, one.kind, where, since, one.what)
        table.add_row(*(Text(cell, overflow="fold") for cell in row))  # Text: a path may contain what rich takes for markup
    if table.row_count:
        Console(width=None if sys.stdout.isatty() else 200).print(table)
    typer.echo(f"{counts['damage']} damaged, {counts['leftover']} left over" if table.row_count else "all is well")
    return counts["damage"]


def _refuse(why: str) -> int:
    typer.echo(why, err=True)
    return BAD_USAGE


def _failed(why: str, *, as_json: bool) -> int:
    """What kept the store from being opened, or the session from being mended, is as bad as damage."""
    typer.echo(json.dumps({"error": why}) if as_json else why, err=not as_json)
    return DAMAGED
