"""Every contract in one class: a storage's test file is a subclass that names its harness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bamboo_sessions.testing.expiry import ExpiryContract
from bamboo_sessions.testing.guesses import GuessContract
from bamboo_sessions.testing.harness import Desk, StorageHarness, applies
from bamboo_sessions.testing.locks import LockContract
from bamboo_sessions.testing.machines import MachineContract
from bamboo_sessions.testing.plain import BackDoorContract, PlainContract
from bamboo_sessions.testing.plain_reads import PlainReadContract
from bamboo_sessions.testing.powers import ListingContract, PowerContract, UsageContract
from bamboo_sessions.testing.races import RaceContract
from bamboo_sessions.testing.records import RecordContract
from bamboo_sessions.testing.records_shared import SharedRecordContract
from bamboo_sessions.testing.repositories import RepositoryContract
from bamboo_sessions.testing.room import RoomContract
from bamboo_sessions.testing.search import NoSearchContract, SearchContract
from bamboo_sessions.testing.usage import UsageReadsContract

CONTRACTS: tuple[type[Any], ...] = (
    PlainContract, BackDoorContract, PowerContract, ListingContract, UsageContract, UsageReadsContract, RecordContract,
    SharedRecordContract, PlainReadContract, LockContract, GuessContract, RoomContract, ExpiryContract, SearchContract,
    NoSearchContract, RepositoryContract, RaceContract, MachineContract)


def contracts() -> dict[str, type[Any]]:
    """Every test of the suite by name, with the class that it belongs to."""
    return {name: owner for owner in CONTRACTS for name in vars(owner) if name.startswith("test_")}


class StorageContract(
    PlainContract, BackDoorContract, PowerContract, ListingContract, UsageContract, UsageReadsContract, RecordContract,
    SharedRecordContract, PlainReadContract, LockContract, GuessContract, RoomContract, ExpiryContract, SearchContract,
    NoSearchContract, RepositoryContract, RaceContract, MachineContract,
):
    """All of it, for one storage:

        class TestMine(StorageContract):
            harness = MyHarness()

    Tests of powers that the harness does not claim are not collected; those of the documented refusals are instead.
    """

    harness: ClassVar[StorageHarness]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "harness" in vars(cls):
            cls._leave_out(cls.harness)

    @classmethod
    def _leave_out(cls, harness: StorageHarness) -> None:
        """pytest does not collect what is None in the nearest class."""
        for name, owner in contracts().items():
            if not (applies(owner, harness.powers) and applies(vars(owner)[name], harness.powers)):
                setattr(cls, name, None)

    @pytest.fixture
    def desk(self, tmp_path: Path) -> Iterator[Desk]:
        """Closed after the test, whatever it did."""
        place = tmp_path / "store"
        place.mkdir()
        with Desk(self.harness, place) as desk:
            yield desk
