"""The kit that any storage must pass, and doubles for tests of whoever uses one. Needs the extra `testing`.

    contracts   plain  records  records_shared  plain_reads  locks  guesses  room
                powers  expiry  search  usage  repositories  races                  what a storage owes
    machines    machines  machine_of_sessions  machine_of_records  machine_of_repositories
    models      scribe  samples                                                     what it is compared with
    machinery   harness  elsewhere  suite                                           how it is opened, run and gathered
    doubles     clock  strict  wrappers                                             for anybody's tests

A storage's test file is a harness and three lines:

    class Mine(StorageHarness):
        powers = frozenset({Power.IDENTITY, Power.REOPEN})

        def open(self, place):
            return MyStorage(place / "sessions.db")

    class TestMine(StorageContract):
        harness = Mine()
"""

try:
    import hypothesis as _hypothesis  # noqa: F401 - asked for here, where the answer can be helpful
    import pytest as _pytest  # noqa: PT013 - not one of the kit's own names
except ImportError as error:
    raise ImportError(
        f'bamboo_sessions.testing needs {error.name}: pip install "bamboo-sessions[testing]"', name=error.name) from error

# Before they are imported: a failed `assert` in them then shows its values, as one in the user's own tests does.
_pytest.register_assert_rewrite(*(f"{__name__}.{_name}" for _name in (
    "elsewhere", "expiry", "guesses", "harness", "locks", "machine_of_records", "machine_of_repositories", "machine_of_sessions", "plain", "plain_reads",
    "powers", "races", "records", "records_shared", "repositories", "room", "scribe", "search", "usage")))

from bamboo_sessions.testing.clock import ManualClock  # noqa: E402 - see above
from bamboo_sessions.testing.harness import Desk, Power, StorageHarness, needs  # noqa: E402 - see above
from bamboo_sessions.testing.strict import Misuse, StrictLockingStorage, StrictStorage  # noqa: E402 - see above
from bamboo_sessions.testing.suite import StorageContract, contracts  # noqa: E402 - see above
from bamboo_sessions.testing.wrappers import FailingStorage, ForgetfulStorage, SlowStorage, Wrapping  # noqa: E402 - see above

__all__ = [
    "Desk",
    "FailingStorage",
    "ForgetfulStorage",
    "ManualClock",
    "Misuse",
    "Power",
    "SlowStorage",
    "StorageContract",
    "StorageHarness",
    "StrictLockingStorage",
    "StrictStorage",
    "Wrapping",
    "contracts",
    "needs",
]
