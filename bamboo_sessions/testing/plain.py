"""What every storage owes, three methods or more: absence is None, sessions come back as they went, nobody else's change."""

from __future__ import annotations

import threading
from itertools import count
from typing import Any

import pytest

from bamboo_sessions.errors import StorageError
from bamboo_sessions.models import Message, Session
from bamboo_sessions.testing.harness import Desk, Power, needs
from bamboo_sessions.testing.samples import (
    CHATS,
    IDS,
    VALUES,
    chats,
    counted,
    differences,
    everything,
    same_json,
    talk,
    texts,
)


def back_door(desk: Desk, *names: str) -> None:
    """Skip where the harness cannot look behind the storage's back."""
    missing = [name for name in names if not desk.harness.has_back_door(name)]
    if missing:
        pytest.skip(f"{type(desk.harness).__name__} has no back door: fill in {' and '.join(missing)}")


def loaded(desk: Desk, session_id: str) -> Session:
    """What the first storage gives for an id that must be there."""
    session = desk.storage.load_session(session_id)
    assert session is not None, f"{session_id!r} was saved and is absent"
    return session


class PlainContract:
    """The three methods, called directly."""

    def test_absence_is_none_and_not_an_error(self, desk: Desk) -> None:
        """A session that was never saved is None, and there is nothing to delete."""
        assert desk.storage.load_session("nobody") is None
        assert desk.storage.delete_session("nobody") is False
        assert desk.storage.load_session("nobody") is None

    def test_deleting_twice(self, desk: Desk) -> None:
        """True where there was a session, False where there is none any more; others stay."""
        for name in ("one", "two"):
            desk.storage.save_session(talk(name, name))
        assert desk.storage.delete_session("one") is True
        assert desk.storage.load_session("one") is None
        assert desk.storage.delete_session("one") is False
        assert texts(loaded(desk, "two")) == ["two"]

    def test_a_deleted_session_can_be_saved_anew(self, desk: Desk) -> None:
        """With nothing left of the one before."""
        desk.storage.save_session(everything("one"))
        desk.storage.delete_session("one")
        fresh = talk("one", "fresh")
        desk.storage.save_session(fresh)
        assert differences(fresh, loaded(desk, "one")) == {}

    def test_a_session_comes_back_whole(self, desk: Desk) -> None:
        """Every field that a user can fill, times to the microsecond, questions in their order."""
        given = everything()
        desk.storage.save_session(given.snapshot())
        assert differences(given, loaded(desk, given.id)) == {}

    def test_an_empty_session_comes_back_empty(self, desk: Desk) -> None:
        """Nothing said and nothing set is not nothing stored."""
        given = Session.new("empty")
        desk.storage.save_session(given.snapshot())
        assert differences(given, loaded(desk, "empty")) == {}

    @needs(Power.IDENTITY)
    def test_identity_comes_back(self, desk: Desk) -> None:
        """Birth and message ids as saved, a revision not below the one saved."""
        given = counted(everything(), 7)
        desk.storage.save_session(given.snapshot())
        found = loaded(desk, given.id)
        assert found.birth == given.birth
        assert [message.id for message in found.messages] == [message.id for message in given.messages]
        assert found.revision >= given.revision
        desk.storage.save_session(found)
        assert loaded(desk, given.id).revision >= found.revision

    def test_saving_again_replaces_the_whole(self, desk: Desk) -> None:
        """What the later one lacks is gone: messages, title, metadata, tags, questions."""
        first = everything("one")
        desk.storage.save_session(first.snapshot())
        later = first.snapshot()
        later.replace_messages(list(first.messages)[2:4])
        later.title, later.pinned, later.archived, later.tags, later.model = None, False, False, set(), None
        later.metadata = {"other": 1}
        later.clear_pending_question()
        desk.storage.save_session(later.snapshot())
        assert differences(later, loaded(desk, "one")) == {}

    def test_every_id_names_a_session_of_its_own(self, desk: Desk) -> None:
        """Separators, case, reserved names, composed and decomposed letters, 512 characters: none meets another."""
        for number, name in enumerate(IDS):
            desk.storage.save_session(talk(name, f"number {number}"))
        found = {name: (loaded(desk, name).id, texts(loaded(desk, name))) for name in IDS}
        assert found == {name: (name, [f"number {number}"]) for number, name in enumerate(IDS)}
        for name in IDS[::2]:
            assert desk.storage.delete_session(name) is True, name
        assert [name for name in IDS if desk.storage.load_session(name) is not None] == list(IDS[1::2])

    def test_messages_come_back_as_they_were_given(self, desk: Desk) -> None:
        """Chat forms to the letter, what orjson would change included; their order; equal neighbours stay two."""
        session = Session.new("faithful")
        for chat in CHATS:
            session.add_message(Message.from_dict(dict(chat)))
        desk.storage.save_session(session)
        found = chats(loaded(desk, "faithful"))
        assert len(found) == len(CHATS)
        assert [given for given, there in zip(CHATS, found, strict=True) if not same_json(given, there)] == []

    def test_metadata_comes_back_as_it_was_given(self, desk: Desk) -> None:
        """Every JSON value under every key."""
        desk.storage.save_session(Session.new("faithful", metadata=VALUES))
        found = dict(loaded(desk, "faithful").metadata)
        assert found.keys() == VALUES.keys()
        assert [name for name, given in VALUES.items() if not same_json(given, found[name])] == []

    def test_unknown_fields_survive(self, desk: Desk) -> None:
        """What a newer version put into session, message and question is kept by this one (P13)."""
        form = everything("newer").to_dict()
        form["from_a_newer_version"] = {"deep": [1, None]}
        form["questions"][0]["urgency"] = "high"
        form["messages"][0]["newer_key"] = [1.0, 1]
        given = Session.from_dict(form)
        assert given.extra == {"from_a_newer_version": {"deep": [1, None]}}
        desk.storage.save_session(given.snapshot())
        found = loaded(desk, "newer")
        assert differences(given, found) == {}
        assert found.to_dict()["questions"][0]["urgency"] == "high"

    def test_a_long_conversation(self, desk: Desk) -> None:
        """A thousand messages, one of a megabyte, saved twice with one more."""
        session = talk("long", *(f"word {number}" for number in range(1000)), "x" * 1_000_000)
        desk.storage.save_session(session.snapshot())
        session.add_message(Message.user("one more"))
        desk.storage.save_session(session.snapshot())
        assert texts(loaded(desk, "long")) == texts(session)

    def test_threads_share_one_object(self, desk: Desk) -> None:
        """Sessions saved, loaded and deleted by several threads at a time do not disturb one another."""
        storage, failed = desk.storage, list[str]()
        ready = threading.Barrier(4)

        def work(name: str) -> None:
            try:
                ready.wait()
                for number in range(5):
                    storage.save_session(talk(name, name, str(number)))
                    session = storage.load_session(name)
                    assert session is not None
                    assert texts(session) == [name, str(number)]
                assert storage.delete_session(name) is True
            except BaseException as error:  # noqa: BLE001 - told to the test below
                failed.append(f"{name}: {error!r}")

        threads = [threading.Thread(target=work, args=(f"thread {n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []

    def test_closing_twice_is_harmless(self, desk: Desk) -> None:
        """Also of an object that did something."""
        storage = desk.open()
        storage.save_session(talk("one", "word"))
        storage.close()
        storage.close()

    @needs(Power.REOPEN)
    def test_what_was_saved_is_there_for_the_next_object(self, desk: Desk) -> None:
        """A second object at the same place has it, beside the first one and after it; deletions too."""
        given = everything("one")
        desk.storage.save_session(given.snapshot())
        desk.storage.save_session(talk("two", "word"))
        beside = desk.open().load_session("one")
        assert beside is not None
        assert differences(given, beside) == {}
        desk.storage.delete_session("two")
        desk.storage.close()
        after = desk.open()
        again = after.load_session("one")
        assert again is not None
        assert differences(given, again) == {}
        assert after.load_session("two") is None


class BackDoorContract:
    """What is stored, seen without asking the storage."""

    def test_asking_stores_nothing(self, desk: Desk) -> None:
        """Looking for a session or deleting none leaves nothing behind."""
        back_door(desk, "peek")
        desk.storage.load_session("nobody")
        desk.storage.delete_session("nobody")
        desk.repository().try_load_merged("nobody")
        desk.repository().exists("nobody")
        assert desk.peek("nobody") is None

    def test_what_is_acknowledged_is_stored(self, desk: Desk) -> None:
        """At once, not with the next save or at close; a deletion as well."""
        back_door(desk, "peek")
        seen: list[bytes | None] = []
        for number in count(1):
            desk.storage.save_session(talk("one", *map(str, range(number))))
            seen.append(desk.peek("one"))
            if number == 3:
                break
        assert None not in seen
        assert len(set(seen)) == 3, "a save was acknowledged and what is stored is as before"
        desk.storage.delete_session("one")
        assert desk.peek("one") is None

    def test_a_damaged_session_is_no_absent_one(self, desk: Desk) -> None:
        """It raises, the repository says StorageError with the cause kept, and the others can be read (P8)."""
        back_door(desk, "damage")
        for name in ("broken", "whole"):
            desk.storage.save_session(talk(name, "word"))
        desk.harness.damage(desk.storage, desk.place, "broken")
        cause = _raised_by(desk.storage, "broken")
        with pytest.raises(StorageError) as caught:
            desk.repository().try_load("broken")
        if not isinstance(cause, StorageError):
            assert caught.value.__cause__ is not None, "the cause was lost on the way"
        assert texts(loaded(desk, "whole")) == ["word"]

    def test_what_is_damaged_is_not_overwritten(self, desk: Desk) -> None:
        """A save under its id by somebody who holds nothing of it is refused, and what is left stays as it is (P8)."""
        back_door(desk, "damage", "peek")
        desk.storage.save_session(talk("broken", "word"))
        desk.harness.damage(desk.storage, desk.place, "broken")
        before = desk.peek("broken")
        for _ in range(2):
            with pytest.raises(StorageError):
                desk.repository(desk.storage).save(talk("broken", "new"))
            assert desk.peek("broken") == before


def _raised_by(storage: Any, session_id: str) -> Exception | None:
    """What reading it raises; None where the storage itself notices nothing, and whoever opens what it gave will."""
    try:
        given = storage.load_session(session_id)
    except Exception as error:  # noqa: BLE001 - a storage may raise what it likes
        return error
    assert given is not None, "damage was taken for absence"
    return None
