"""State machines: hypothesis chooses what happens, and after each step the storage has to be what a plain model says.

Three of them: the three methods against a dict, records against `scribe.Page`, and repositories against sets of words.
The default runs are the same at every call; BAMBOO_SESSIONS_EXAMPLES asks for so many other ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from bamboo_sessions.testing.harness import Desk, Power, StorageHarness, needs


class StorageMachine(RuleBasedStateMachine):
    """A machine on a desk of its own, at a fresh place for each run."""

    harness: ClassVar[StorageHarness]
    base: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="machine-", dir=self.base))
        self.desk = Desk(self.harness, self.place)
        self.begin()

    def begin(self) -> None:
        """What the machine needs besides; called once a run."""

    def teardown(self) -> None:
        """Close and clear away."""
        self.desk.close()
        shutil.rmtree(self.place, ignore_errors=True)


def run_machine(machine: type[StorageMachine], desk: Desk) -> None:
    """As many runs as the harness or the environment says, beside the desk's place."""
    asked = os.environ.get("BAMBOO_SESSIONS_EXAMPLES")
    examples = int(asked) if asked else desk.harness.examples
    here = type(machine.__name__, (machine,), {"harness": desk.harness, "base": desk.place.parent})
    run_state_machine_as_test(here, settings=settings(
        max_examples=examples, stateful_step_count=desk.harness.steps, deadline=None, derandomize=not asked,
        database=None if not asked else InMemoryExampleDatabase(), suppress_health_check=list(HealthCheck),
        phases=[phase for phase in Phase if desk.harness.shrinks or phase is Phase.generate], print_blob=True))


class MachineContract:
    """Long orders of steps that nobody thought of."""

    def test_three_methods_against_a_dict(self, desk: Desk) -> None:
        """Saves, loads, deletions, reopenings: what was saved last under an id is there."""
        from bamboo_sessions.testing.machine_of_sessions import SessionMachine  # noqa: PLC0415 - they stand on this file

        run_machine(SessionMachine, desk)

    @needs(Power.RECORDS)
    def test_records_against_a_page(self, desk: Desk) -> None:
        """Commits right and wrong, retries, deletions, reads from every known state, by several objects."""
        from bamboo_sessions.testing.machine_of_records import RecordMachine  # noqa: PLC0415 - see above

        run_machine(RecordMachine, desk)

    def test_repositories_against_sets_of_words(self, desk: Desk) -> None:
        """Held copies of several writers: nothing acknowledged is lost, nothing deleted comes back."""
        from bamboo_sessions.testing.machine_of_repositories import RepositoryMachine  # noqa: PLC0415 - see above

        run_machine(RepositoryMachine, desk)
