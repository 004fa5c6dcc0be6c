"""Opening a store: what makes a folder a store, and what is swept up when one is opened.

`store.json` is written once, under a lock of its own, and never changed: format and store id. It is written before the
folders beside it, so a folder that has sessions and no `store.json` was damaged and is not quietly given a new id:
every copy that was taken from it would then pass for one of another store.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from contextlib import suppress
from typing import Any, Final

import filelock
import orjson

from bamboo_sessions._files import Files
from bamboo_sessions._json import loads
from bamboo_sessions._locks import _native_lock, poll
from bamboo_sessions.errors import LockTimeout, StorageError, UnsupportedFormat
from bamboo_sessions.ids import new_birth
from bamboo_sessions.storages.json_files.layout import Layout

FORMAT: Final = 1
LEFT_ALONE_NS: Final = 3600 * 10**9
"""Half-made folders younger than this may belong to somebody who is at work."""
_WAIT: Final = 30.0


def open_store(files: Files, layout: Layout, mode: int, folder_mode: int) -> str:
    """The store's id; makes the store where there is none."""
    try:
        return read_store_id(files, layout)
    except FileNotFoundError:
        _make_root(files, layout.root, folder_mode)
    lock = _native_lock(layout.store + ".lock", mode)
    if not poll(lambda: _taken(lock), _WAIT):
        raise LockTimeout(layout.root, _WAIT)
    try:
        return _made(files, layout, mode, folder_mode)
    finally:
        lock.release(force=True)


def read_store_id(files: Files, layout: Layout) -> str:
    """Raises FileNotFoundError where there is no store yet."""
    data = files.read_whole(layout.store)
    try:
        fields: dict[str, Any] = loads(data)
        found, store_id = fields["format"], fields["store_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{layout.store} is damaged: {error}; restore it from a backup") from error
    if not isinstance(found, int) or found > FORMAT:
        raise UnsupportedFormat(layout.store, found, FORMAT)
    if not isinstance(store_id, str) or not store_id:
        raise StorageError(f"{layout.store} is damaged: no store id; restore it from a backup")
    return store_id


def _taken(lock: filelock.BaseFileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return False
    return True


def _made(files: Files, layout: Layout, mode: int, folder_mode: int) -> str:
    try:
        return read_store_id(files, layout)  # by somebody who had the lock before us
    except FileNotFoundError:
        if _is_there(files, layout.sessions):
            raise StorageError(f"{layout.root} has sessions but no store.json; restore it from a backup") from None
    with suppress(PermissionError):
        files.sync_dir(os.path.dirname(layout.root))  # once more: it may have failed for whoever made the root
    store_id = new_birth()
    files.write_new(layout.store + ".new", orjson.dumps({"format": FORMAT, "store_id": store_id}) + b"\n", mode)
    files.rename(layout.store + ".new", layout.store)
    files.sync_dir(layout.root)
    make_folders(files, layout, folder_mode)
    return store_id


def make_folders(files: Files, layout: Layout, folder_mode: int) -> None:
    """The folders of a store; some may be there from a creation that was cut short."""
    made = [path for path in (layout.sessions, layout.new, layout.trash) if not _is_there(files, path)]
    for path in made:
        with suppress(FileExistsError):
            files.mkdir(path, folder_mode)
    if made:
        files.sync_dir(layout.root)


def _is_there(files: Files, path: str) -> bool:
    try:
        return stat_bits.S_ISDIR(files.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _make_root(files: Files, root: str, folder_mode: int) -> None:
    """The root and its missing parents, each name durable. A root that is there, also by a link, is left as it is."""
    if os.path.isdir(root):
        return
    parent = os.path.dirname(root)
    if parent != root:
        _make_root(files, parent, folder_mode)
    try:
        files.mkdir(root, folder_mode)
    except FileExistsError:
        if not os.path.isdir(root):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", root) from None
    files.sync_dir(parent)


def sweep(files: Files, layout: Layout) -> None:
    """Remove what a crash left half made or half removed. A store that may only be read is not swept."""
    with suppress(OSError):
        for name in files.listdir(layout.trash):
            files.remove_tree(os.path.join(layout.trash, name))
        before = files.wall_ns() - LEFT_ALONE_NS
        for name in files.listdir(layout.new):
            path = os.path.join(layout.new, name)
            if files.stat(path).st_mtime_ns < before:
                files.remove_tree(path)
