"""Other stores of conversations, and this one, under the same race and the same power cut: `make peers`.

    python -m tests.peers --only strands --cuts 3 --seed 7
    python -m tests.peers --markdown

What a peer loses is a result, and the script succeeds. It fails where our own row shows anything, or where it could not run.
Root and Linux are needed for the cuts; elsewhere they are left out, and that is said.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.peers import tables
from tests.peers.children import Broken, ask
from tests.peers.cut import cut, missing
from tests.peers.install import OURS, PEERS, install
from tests.peers.race import race
from tests.peers.tables import Row

_BEGAN = time.monotonic()


def say(words: str) -> None:
    """Progress is no result."""
    print(f"{time.monotonic() - _BEGAN:5.0f} s  {words}", file=sys.stderr, flush=True)


def about(peer: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="peers-about-") as folder:
        return ask(peer, "begin", Path(folder))


def compare(peer: str, told: argparse.Namespace, cuts: int) -> Row:
    if install(peer):
        say(f"{peer}: installed")
    row = Row(peer, about(peer))
    for number in range(told.races):
        row.races.append(race(peer, told.again))
        say(f"{peer}: race {number + 1} of {told.races}: {_short(row.races[-1])}")
    for number in range(cuts):
        row.cuts.append(cut(peer, told.seed, number))
        say(f"{peer}: cut {number + 1} of {cuts}: {_short(row.cuts[-1])}")
    return row


def _short(one: tables.Raced | tables.Cut) -> str:
    found = one.verdict
    told = f"{found.acknowledged} acknowledged, {found.lost} lost" + (f", {sum(found.errors.values())} refused" if found.errors else "")
    return f"{told}, unreadable ({one.unreadable})" if one.unreadable else told


def report(rows: Sequence[Row], as_page: bool) -> None:
    show = tables.markdown if as_page else tables.plain
    parts: list[tuple[str, Sequence[str], Callable[[Row], tuple[str, ...]], list[Row]]] = [
        ("What was compared", tables.ABOUT, tables.about_row, list(rows)),
        ("The race", tables.RACE, tables.race_row, [row for row in rows if row.races]),
        ("The cut", tables.CUT, tables.cut_row, [row for row in rows if row.cuts]),
    ]
    for title, head, row_of, those in parts:
        if those:
            print(f"\n{title}\n\n{show(head, [row_of(row) for row in those])}")
    print(f"\nPython {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, {platform.system()} {platform.release()}, {os.cpu_count()} cores")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description="The same race and the same power cut for everybody.")
    parser.add_argument("--only", action="append", choices=PEERS, help="this one; may be given several times")
    parser.add_argument("--races", type=int, default=5)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", default="1", help="of the moments at which the power goes")
    parser.add_argument("--again", type=int, default=0, help="try a refused append of the race so many times more")
    parser.add_argument("--markdown", action="store_true", help="tables for a page")
    return parser.parse_args()


def main() -> None:
    told = arguments()
    lacks = missing() if told.cuts else ""
    if lacks:
        say(f"no power cuts: {lacks}")
    try:
        rows = [compare(peer, told, 0 if lacks else told.cuts) for peer in told.only or PEERS]
    except Broken as error:
        sys.exit(f"a process died without an answer:\n{error}")
    report(rows, told.markdown)
    wrong = [why for row in rows if row.peer == OURS for why in row.failed]
    if wrong:
        sys.exit("bamboo_sessions failed:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
