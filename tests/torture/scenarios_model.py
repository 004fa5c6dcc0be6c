"""What a change means, told on plain dictionaries, without the library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from tests.torture.scenarios_expiry import is_hidden

Model = dict[str, dict[str, Any]]
"""chat id -> {"life", "messages", "title", "open", "usage", "time", "revision"}; "pinned": it does not expire; "damaged": it
has to be repaired first. What "time" says is told in `scenarios_expiry`."""


@attrs.frozen
class Change:
    """One thing that one writer does with one session. `text` is new, `old` names what it is done to."""

    kind: str
    chat: str = ""
    text: str = ""
    old: str = ""
    by: int = 0


def apply(model: Model, change: Change) -> None:
    """Change `model` as the store must have changed; nothing where the change was pointless."""
    kind, chat, text, old = change.kind, model.get(change.chat), change.text, change.old
    if kind == "join":
        kind = "create"
        if chat is not None:
            chat["time"] = "now"
    if kind == "create":
        if chat is None or is_hidden(chat):  # what nobody is shown makes room
            model[change.chat] = fresh(text, [text], 1)
            return
        chat["messages"].append(text)  # two that begin one session: they merge
        chat["life"] = text
    elif kind == "purge":
        for name in [name for name, session in model.items() if is_hidden(session)]:
            del model[name]
        return
    elif chat is None or kind in ("open", "list", "hold"):
        return
    elif kind in ("age", "touch", "save_again"):
        chat["time"] = text if kind == "age" else "now"
        return
    elif kind == "late" and chat["life"] != old:
        return  # refused: what it is a copy of is gone
    elif kind == "delete":
        del model[change.chat]
        return
    elif kind == "usage":
        chat["usage"].append(text)
        return
    elif kind == "repair":
        chat["damaged"], chat["revision"] = False, None  # which one it is then is the repair's to say
        return
    elif kind in ("say", "say_held", "keep", "late"):
        chat["messages"].append(text)
    elif kind in ("edit", "remove"):
        if old not in chat["messages"]:
            return
        at = chat["messages"].index(old)
        chat["messages"][at : at + 1] = [text] if kind == "edit" else []
    elif kind == "title":
        chat["title"] = text
    elif kind == "pin":
        chat["pinned"] = text == "yes"
    elif kind == "ask":
        chat["open"].append(text)
    elif kind == "answer":
        if old not in chat["open"]:
            return
        chat["open"].remove(old)
        chat["messages"].append(text)
    else:
        raise ValueError(kind)
    chat["time"] = "now"
    if chat["revision"] is not None:
        chat["revision"] += 1


def fresh(life: str, messages: list[str], revision: int) -> dict[str, Any]:
    """A session that was just begun."""
    return {"life": life, "messages": messages, "title": None, "open": [], "usage": [], "pinned": False, "time": "now",
            "revision": revision}


def half_of(change: Change) -> Change | None:
    """What alone may have been done of a change that is in doubt: who creates what has expired purges first."""
    return attrs.evolve(change, kind="purge") if change.kind == "create" else None


def after(model: Model, changes: Iterable[Change]) -> Model:
    """The model after these changes; `model` itself stays as it is."""
    made = {chat: {key: [*value] if isinstance(value, list) else value for key, value in session.items()}
            for chat, session in model.items()}
    for change in changes:
        apply(made, change)
    return made
