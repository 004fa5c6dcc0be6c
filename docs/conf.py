"""How the pages become a site: `make docs`. Every warning is an error there, so a link that leads nowhere fails.

The pages are plain markdown that reads well without being built. Only the details page of the reference needs the build:
it is made from docstrings.
"""
# ruff: noqa: INP001, ARG001 - a script beside the pages; Sphinx hands its hooks more than they need

from __future__ import annotations

import builtins
import re
import sys
from typing import Any

import attrs
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import bamboo_sessions
from bamboo_sessions import testing
from bamboo_sessions.storages import protocol, shortcuts

project = "bamboo_sessions"
author = "the bamboo_sessions authors"
copyright = author
html_title = project
html_theme = "furo"
html_show_sphinx = False

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
nitpicky = True
myst_heading_anchors = 3  # the anchors that code hosts make of headings, so that one link works in both places
suppress_warnings: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # `clock=SYSTEM_CLOCK`, as it is written, and not the object's address
python_maximum_signature_line_length = 100

PUBLIC = frozenset(bamboo_sessions.__all__)
HOMES = {
    **{name: protocol.__name__ for name in vars(protocol) if name[0].isupper()},
    **{name: thing.__module__ for name, thing in vars(shortcuts).items() if getattr(thing, "__module__", "") == shortcuts.__name__},
    **dict.fromkeys(testing.__all__, testing.__name__),
    **dict.fromkeys(PUBLIC, bamboo_sessions.__name__),
}
"""The module under which a name is documented, wherever it is defined."""
PRIVATE = {"Messages", "Metadata", "V", "Files", "PathLike", "Test", "URL", "Engine"}
"""Types in signatures that have no page: what they are is said where they are used."""


def documented(name: str) -> str:
    """The full name under which a page documents it; the name itself where none does."""
    home = HOMES.get(name.partition(".")[0])
    return name if home is None else f"{home}.{name}"


def backticks(role: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None,
              content: Any = ()) -> tuple[list[nodes.Node], list[nodes.Node]]:
    """`Name` in a docstring: a link where it begins with a public name (and an error where that leads nowhere)."""
    literal = nodes.literal(rawtext, text, classes=["xref", "py"])
    if text.partition(".")[0] not in PUBLIC:
        return [literal], []
    target = documented(text.removesuffix("()"))
    link = pending_xref(rawtext, literal, refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True)
    link["py:module"] = link["py:class"] = None
    link.source, link.line = inliner.document.current_source, lineno
    link["refdoc"] = inliner.document.settings.env.docname
    return [link], []


def missing(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """A type in a signature: under its public name where it has one; the standard library is not linked to."""
    if node.get("refdomain") != "py":
        return None
    target: str = node["reftarget"]
    last = target.rpartition(".")[2]
    if target.partition(".")[0] in sys.stdlib_module_names or hasattr(builtins, target) or last in PRIVATE:
        return content
    known = documented(last)
    if known == target:
        return None
    python = env.domains.python_domain
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", known, node, content)


def attrs_defaults(app: Sphinx, what: str, name: str, thing: object, options: object, signature: str | None,
                   returns: str | None) -> tuple[str | None, str | None]:
    """The defaults of an attrs class, which its generated constructor looks up at run time."""
    if signature is not None and isinstance(thing, type) and attrs.has(thing):
        fields = attrs.fields_dict(thing)
        signature = re.sub(r"attr_dict\['(\w+)'\]\.default", lambda found: repr(fields[found[1]].default), signature)
        signature = signature.replace("NOTHING", "...")
    return signature, returns


def code_blocks(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """An indented paragraph in a docstring is code, without a mark that would look odd in the source."""
    found = []
    for line in lines:
        if line.startswith("    ") and found and not found[-1]:
            found += ["::", ""] if not _in_code(found) else []
        found.append(line)
    lines[:] = found


def _in_code(lines: list[str]) -> bool:
    """Whether the last paragraph is code already."""
    said = [line for line in lines if line]
    return bool(said) and (said[-1].startswith("    ") or said[-1].endswith("::"))


def contents(app: Sphinx, page: str, text: list[str]) -> None:
    """The tree of pages is what the first page links to, under its headings: it stays plain markdown."""
    if page != "index":
        return
    for door, links in re.findall(r"^## (\w[\w-]*).*?\n\n(.*?)(?=\n## |\Z)", text[0], re.MULTILINE | re.DOTALL):
        pages = re.findall(r"\(([\w/-]+)\.md\)", links)
        text[0] += "\n\n```{toctree}\n:hidden:\n:caption: " + "\n".join([door, "", *pages]) + "\n```\n"


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", contents)
    app.add_role("name", backticks)
    app.connect("autodoc-process-signature", attrs_defaults)
    app.connect("autodoc-process-docstring", code_blocks)
    app.connect("missing-reference", missing)


default_role = "name"
