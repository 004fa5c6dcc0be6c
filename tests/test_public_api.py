"""The public surface is a list that somebody looks after: exact, sorted, documented, and cheap to import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import bamboo_sessions

ROOT = Path(__file__).parent.parent

PROMISED = """
    SessionRepository AsyncSessionRepository RuntimeSessionPersistence
    Session Message Role ToolCall PendingQuestion SessionSummary
    SessionCache CacheStats Storage MemoryStorage JsonFileStorage LockedSessionStore
    SessionError SessionNotFound SessionExpired SessionDeleted InvalidSessionId InvalidMessage
    StorageError StorageUnavailable CorruptSession RevisionConflict LockTimeout QuestionNotOpen
""".split()
"""Names that users and their tests depend on: none of them may ever go."""

OPTIONAL = ("typer", "rich", "anyio", "sqlalchemy", "alembic", "psycopg", "redis", "pytest", "hypothesis")


def test_the_list_of_public_names_is_sorted_and_has_no_name_twice():
    """A sorted list shows at a glance what is there."""
    assert bamboo_sessions.__all__ == sorted(set(bamboo_sessions.__all__))


def test_every_promised_name_is_public():
    """Names may be added; the promised ones stay."""
    assert set(PROMISED) - set(bamboo_sessions.__all__) == set()


def test_every_public_name_is_there():
    """`__all__` does not promise what an import would not find."""
    assert [name for name in bamboo_sessions.__all__ if not hasattr(bamboo_sessions, name)] == []


def test_the_list_is_what_a_star_import_and_dir_give():
    """The async face, which is imported on demand, is no exception."""
    given: dict[str, object] = {}
    exec("from bamboo_sessions import *", given)
    assert set(bamboo_sessions.__all__) <= set(given)
    assert set(bamboo_sessions.__all__) <= set(dir(bamboo_sessions))
    assert not hasattr(bamboo_sessions, "AsyncRepository")


def test_the_reference_lists_the_public_names_and_no_others():
    """A name without a line in the reference is not public; a line without a name is a mistake."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == bamboo_sessions.__all__


def test_every_error_has_one_root():
    """`except SessionError` catches whatever the library raises on purpose."""
    public = [getattr(bamboo_sessions, name) for name in bamboo_sessions.__all__]
    errors = [thing for thing in public if isinstance(thing, type) and issubclass(thing, BaseException)]
    assert len(errors) >= 12
    assert [error for error in errors if not issubclass(error, bamboo_sessions.SessionError)] == []


def test_storage_errors_are_those_a_storage_is_to_blame_for():
    """`save_and_cache` swallows `StorageError` and nothing else, so the line between them matters."""
    below = {name for name in PROMISED if isinstance(thing := getattr(bamboo_sessions, name), type)
             and issubclass(thing, bamboo_sessions.StorageError)}
    assert below == {"StorageError", "StorageUnavailable", "CorruptSession", "LockTimeout", "RevisionConflict"}


def test_importing_the_package_imports_no_extra():
    """A plain install starts fast; what a dependency tries to import on its own account (structlog: rich) is its own."""
    program = f"""
import sys, attrs, filelock, orjson, structlog
before = set(sys.modules)
import bamboo_sessions
print(*[name for name in {OPTIONAL!r} if name in set(sys.modules) - before])"""
    assert in_a_fresh_interpreter(program).split() == []


def test_the_package_works_without_any_extra():
    """None of them can be imported, and a session is saved all the same."""
    program = f"""
import sys
sys.modules |= dict.fromkeys({OPTIONAL!r})
from bamboo_sessions import Session, SessionRepository
print(SessionRepository.open("memory://").save(Session.new("s")).revision)"""
    assert in_a_fresh_interpreter(program).split() == ["1"]


def in_a_fresh_interpreter(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout
