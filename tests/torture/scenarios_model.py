"""What a change means, told on plain dictionaries, without the library."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import attrs

Model = dict[str, dict[str, Any]]
"""chat id -> {"life", "messages", "title", "open", "usage", "revision"}; "damaged": it has to be repaired first."""


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
    if kind == "create":
        if chat is None:
            model[change.chat] = {"life": text, "messages": [text], "title": None, "open": [], "usage": [], "revision": 1}
            return
        chat["messages"].append(text)  # two that begin one session: they merge
        chat["life"] = text
    elif chat is None or kind in ("open", "list", "hold"):
        return
    elif kind == "delete":
        del model[change.chat]
        return
    elif kind == "usage":
        chat["usage"].append(text)
        return
    elif kind == "repair":
        chat["damaged"], chat["revision"] = False, None  # which one it is then is the repair's to say
        return
    elif kind in ("say", "say_held", "keep"):
        chat["messages"].append(text)
    elif kind in ("edit", "remove"):
        if old not in chat["messages"]:
            return
        at = chat["messages"].index(old)
        chat["messages"][at : at + 1] = [text] if kind == "edit" else []
    elif kind == "title":
        chat["title"] = text
    elif kind == "ask":
        chat["open"].append(text)
    elif kind == "answer":
        if old not in chat["open"]:
            return
        chat["open"].remove(old)
        chat["messages"].append(text)
    else:
        raise ValueError(kind)
    if chat["revision"] is not None:
        chat["revision"] += 1


def after(model: Model, changes: Iterable[Change]) -> Model:
    """The model after these changes; `model` itself stays as it is."""
    made = copy.deepcopy(model)
    for change in changes:
        apply(made, change)
    return made
