"""The command line: arguments in, exit codes out; what a command does lives elsewhere.

typer and rich are an extra. They are imported when a command is really run, so that a plain install can still be
imported and says in one line what is missing.
"""

# No `from __future__ import annotations` here: typer has to read annotations that name it inside a function.

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    import typer

NEEDS_EXTRA = "the command line needs the extra `cli`: pip install 'bamboo-sessions[cli]'"


def main() -> None:
    """The entry point of `bamboo-sessions` and of `python -m bamboo_sessions`."""
    try:
        app = make_app()
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(NEEDS_EXTRA)
    app(prog_name="bamboo-sessions")


def make_app() -> "typer.Typer":
    """All commands; raises `ModuleNotFoundError` where the extra is missing."""
    import rich  # noqa: F401, PLC0415 - see above
    import typer  # noqa: PLC0415 - see above

    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback()
    def about() -> None:
        """Sessions that several writers share without losing a word."""

    @app.command()
    def demo(
        data: Annotated[list[Path] | None, typer.Option(
            help="JSON Lines file of conversations, or a folder of such files; can be repeated. Default: a small sample.",
        )] = None,
        folder: Annotated[Path | None, typer.Option(
            help="Where sessions and logbooks go: a new or empty folder. Default: a temporary one, which is kept.",
        )] = None,
        runtimes: Annotated[int, typer.Option(min=2, max=64, help="How many runtime processes write.")] = 4,
        kills: Annotated[int, typer.Option(min=0, max=1000, help="How often a runtime is killed with SIGKILL.")] = 1,
        seed: Annotated[int, typer.Option(help="The same seed deals the same turns.")] = 7,
    ) -> None:
        """Let several processes share sessions, kill one of them, and count what was lost.

        Exit code 0: nothing was lost. 1: something was lost or refused. 2: bad usage.
        """
        from bamboo_sessions.demo import command  # noqa: PLC0415 - its display needs the extra

        raise typer.Exit(command.demo(data or [], folder, runtimes=runtimes, kills=kills, seed=seed))

    @app.command()
    def check(
        path: Annotated[Path, typer.Argument(help="The folder of a store of JSON files.")],
        session: Annotated[str | None, typer.Option(help="Look at this session only.")] = None,
        json: Annotated[bool, typer.Option("--json", help="One JSON object a finding, a line each.")] = False,
    ) -> None:
        """Look whether every file of a store is as it should be; changes nothing, and others may write meanwhile.

        Exit code 0: nothing is damaged. 1: something is, or the store cannot be opened. 2: bad usage.
        """
        from bamboo_sessions import upkeep  # noqa: PLC0415 - its display needs the extra

        raise typer.Exit(upkeep.check(path, session, as_json=json))

    @app.command()
    def repair(
        path: Annotated[Path, typer.Argument(help="The folder of a store of JSON files.")],
        session_id: Annotated[str, typer.Argument(metavar="ID", help="The session.")],
        json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
    ) -> None:
        """Write a damaged session anew from all that can be read of it; the damaged files are kept in its quarantine folder.

        Exit code 0: it is whole. 1: it cannot be repaired, and nothing was changed. 2: bad usage.
        """
        from bamboo_sessions import upkeep  # noqa: PLC0415 - its display needs the extra

        raise typer.Exit(upkeep.repair(path, session_id, as_json=json))

    @app.command()
    def copy(
        source: Annotated[str, typer.Argument(help="A folder or a URL, such as sqlite:///chats.db.")],
        target: Annotated[str, typer.Argument(help="Where the sessions go; may hold some of them already.")],
        json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
    ) -> None:
        """Copy every session of one store into another, while others may go on writing; an interrupted run is simply repeated.

        Exit code 0: all is there. 1: something could not be copied, or writers were faster. 2: bad usage.
        """
        from bamboo_sessions import upkeep  # noqa: PLC0415 - its display needs the extra

        raise typer.Exit(upkeep.copy(source, target, as_json=json))

    @app.command()
    def search(
        store: Annotated[str, typer.Argument(help="A folder or a URL, such as sqlite:///chats.db.")],
        words: Annotated[list[str], typer.Argument(help="What to look for: all of these words, in one title or one message.")],
        limit: Annotated[int, typer.Option(min=1, help="How many places to show.")] = 20,
        prefix: Annotated[bool, typer.Option("--prefix", help="The last word may be the beginning of a longer one.")] = False,
        json: Annotated[bool, typer.Option("--json", help="One JSON object a place, a line each.")] = False,
    ) -> None:
        """Find words in titles and messages, the newest sessions first.

        Exit code 0: something was found. 1: nothing was, or the store cannot be searched. 2: bad usage.
        """
        from bamboo_sessions import upkeep  # noqa: PLC0415 - its display needs the extra

        raise typer.Exit(upkeep.search(store, " ".join(words), limit, prefix=prefix, as_json=json))

    return app
