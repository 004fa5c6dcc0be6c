"""Each peer in an environment of its own, `.venv-peers/<name>`, made when it is first needed.

`requirements-<name>.txt` pins every package of it, so that a later run compares the same things; a changed file makes the
environment anew. Never ours: peers want versions of packages that we, or each other, do not. `bamboo_sessions` itself runs with
the interpreter that runs the script.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = {
    "bamboo": "bamboo_sessions, JSON files",
    "strands": "strands-agents, FileSessionManager",
    "strands_anew": "strands-agents, FileSessionManager, an agent made for each append",
    "agno": "agno, JsonDb",
    "agno_sqlite": "agno, SqliteDb",
    "openai": "openai-agents, SQLiteSession",
    "adk": "google-adk, DatabaseSessionService on SQLite",
    "diskcache": "python-diskcache, Deque",
}
OURS = "bamboo"


def home_of(peer: str) -> Path:
    """Two ways of using one peer share its environment."""
    return ROOT / ".venv-peers" / peer.partition("_")[0]


def pins_of(peer: str) -> Path:
    return Path(__file__).with_name(f"requirements-{home_of(peer).name}.txt")


def python_of(peer: str) -> str:
    return sys.executable if peer == OURS else str(home_of(peer) / "bin" / "python")


def install(peer: str) -> bool:
    """Whether anything had to be done."""
    if peer == OURS:
        return False
    wanted, home = pins_of(peer), home_of(peer)
    stamp = home / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return False
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run([python_of(peer), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--progress-bar", "off",
                    "--requirement", str(wanted)], check=True)
    # Last, so that an installation that was broken off is not taken for one.
    stamp.write_text(wanted.read_text())
    return True
