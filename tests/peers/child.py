"""One process beside a peer: it opens the peer's store as the peer's users do, and appends, renames, or reads.

It runs in the environment of the peer, so it knows nothing but the standard library and one module `peer_<name>`, whose `Store`
is the whole interface:

    Store(folder)                       opens, and creates what is not there
    append(text)                        returns when the peer says that it is saved
    texts() -> list[str]                as stored now, in order
    rename(title), title() -> str       where the peer has a title
    package, settings                   what is tried, and how

Standard output belongs to the answers to whoever started it, a JSON line each; what a library prints goes to standard error.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from typing import Any

from tests.peers.notes import FIRST, Notebook, text_of


def begin(make: Any, folder: str) -> dict[str, Any]:
    """The session exists, and whoever asks is told what was opened."""
    make(folder).append(FIRST)
    version = importlib.metadata.version(make.package)
    return {"package": make.package, "version": version, "settings": make.settings, "titled": hasattr(make, "rename")}


def append_all(store: Any, notes: Notebook, writer: int, count: int, pace: float, again: int) -> None:
    for number in range(count):
        notes.note("begun", number)
        for _ in range(1 + again):
            if _tried(lambda number=number: store.append(text_of(writer, number)), notes, number):
                break
        time.sleep(pace)


def rename_all(store: Any, notes: Notebook, count: int, pace: float) -> None:
    for number in range(count):
        notes.note("begun", number)
        _tried(lambda number=number: store.rename(f"title {number}"), notes, number)
        time.sleep(pace)


def _tried(change: Any, notes: Notebook, number: int) -> bool:
    try:
        change()
    except Exception as error:
        notes.note("refused", number, type(error).__name__)
        return False
    notes.note("done", number)
    return True


def read(make: Any, folder: str, then: str) -> dict[str, Any]:
    """What somebody sees who comes later; `then`: and whether one more word can be said, where that is asked for."""
    seen: dict[str, Any] = {"texts": None, "title": None, "error": "", "goes_on": None}
    try:
        store = make(folder)
        seen["texts"] = store.texts()
        seen["title"] = store.title() if hasattr(store, "title") else None
        if then:
            seen["goes_on"] = False
            store.append(then)
            seen["goes_on"] = make(folder).texts()[-1:] == [then]
    except Exception as error:
        # The end of the message tells more: it often begins with a long path.
        seen["error"] = f"{type(error).__name__}: …{str(error)[-80:]}"
    return seen


def main() -> None:
    told = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    make = importlib.import_module(f"tests.peers.peer_{told['peer']}").Store

    def answer(what: Any) -> None:
        print(json.dumps(what), file=answers)

    if told["act"] == "begin":
        answer(begin(make, told["folder"]))
    elif told["act"] == "read":
        answer(read(make, told["folder"], told["then"]))
    else:
        store, notes = make(told["folder"]), Notebook(told["notes"])
        answer("ready")
        sys.stdin.readline()
        if told["act"] == "append":
            append_all(store, notes, told["writer"], told["count"], told["pace"], told["again"])
        else:
            rename_all(store, notes, told["count"], told["pace"])
    # Some libraries wait for their threads at the end of a process, or complain there; all that matters has been written.
    os._exit(0)


if __name__ == "__main__":
    main()
