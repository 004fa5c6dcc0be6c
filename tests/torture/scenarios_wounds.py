"""What is done to the files of a store before a scenario begins: by dead writers, by earlier versions, by bad disks.

Written from the pages that describe the format, with nothing of the library but the way to a session's folder.
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from bamboo_sessions import JsonFileStorage


def folder_of(root: str | Path, chat: str) -> Path:
    """Chats here have ids that are their own folder names."""
    return next(Path(root).glob(f"sessions/*/{chat}"))


def _sealed(rest: bytes) -> bytes:
    return b'{"crc":"%08x",' % zlib.crc32(rest) + rest


def as_dead_writers_leave(unsaid: str, root: str | Path) -> None:
    """A torn tail behind "torn", a fold of "folding" between its two renames, and what lies aside and about."""
    journal = folder_of(root, "torn") / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"crc":"01234567","prev":"89abcdef","rev":4,"op":"' + unsaid.encode())
    half_folded(root, "folding")
    (folder_of(root, "whole") / "session.json.new").write_bytes(b'{"crc":')
    whole = folder_of(root, "whole")
    shutil.copytree(whole, Path(root) / "new" / "0123456789abcdef")
    shutil.copytree(whole, Path(root) / "trash" / "fedcba9876543210")


def half_folded(root: str | Path, chat: str) -> None:
    """Fold, and put the old journal back: as if the writer had died before the second rename."""
    journal = folder_of(root, chat) / "journal.jsonl"
    old = journal.read_bytes()
    storage = JsonFileStorage(root)
    storage._writer._fold(storage._place(chat))
    storage.close()
    assert journal.read_bytes() != old
    journal.write_bytes(old)


def older_snapshots(root: str | Path) -> None:
    """Take the running checksums out of every snapshot and seal it again, as development versions wrote them."""
    for path in Path(root).glob("sessions/*/*/session.json"):
        body, _, _ = path.read_bytes().rpartition(b'"sum":')
        body, found = re.subn(rb'"lines":"[0-9a-f]*",', b"", body)
        assert found == 1
        path.write_bytes(body + b'"sum":"%08x"}\n' % zlib.crc32(body))


def damage(words: Mapping[str, list[str]]) -> tuple[Callable[[str | Path], None], dict[str, list[str]]]:
    """(what damages the three chats, what a repair must bring back of each)."""
    saved = {"middle": [*words["middle"][:2], *words["middle"][3:]], "first-line": words["first-line"],
             "snapshot": words["snapshot"][1:]}
    return _damage, {chat: list(texts) for chat, texts in saved.items()}


def _damage(root: str | Path) -> None:
    _flip(folder_of(root, "middle") / "journal.jsonl", line=2)
    _flip(folder_of(root, "first-line") / "journal.jsonl", line=0)
    _flip(folder_of(root, "snapshot") / "session.json", line=2)


def _flip(path: Path, line: int) -> None:
    """One wrong byte in the middle of a line."""
    lines = path.read_bytes().split(b"\n")
    wrong = bytearray(lines[line])
    wrong[len(wrong) // 2] ^= 0x01
    lines[line] = bytes(wrong)
    path.write_bytes(b"\n".join(lines))
