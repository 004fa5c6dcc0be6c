"""The three methods against a dict: what was saved last under an id is there, and nothing else."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from bamboo_sessions.models import Message, Session
from bamboo_sessions.testing.harness import Power
from bamboo_sessions.testing.machines import StorageMachine
from bamboo_sessions.testing.samples import CHATS, VALUES, differences

NAMES = ("a", "A", "a/b", "日本語")

names = st.sampled_from(NAMES)
some_chats = st.lists(st.sampled_from(CHATS[:20]), max_size=4)
some_metadata = st.dictionaries(st.sampled_from(sorted(VALUES)[:12]), st.sampled_from(sorted(set(VALUES) - {"deep", "long text"})),
                                max_size=3)


class SessionMachine(StorageMachine):
    """See the module."""

    def begin(self) -> None:
        """Nothing is there."""
        self.kept: dict[str, Session] = {}

    @rule(name=names, chats=some_chats, metadata=some_metadata, title=st.sampled_from([None, "t", "Ü 🙂"]), pinned=st.booleans())
    def save(self, name: str, chats: list[dict[str, object]], metadata: dict[str, str], title: str | None,
             pinned: bool) -> None:
        """A whole session, over whatever is there."""
        session = Session.new(name, title=title, metadata={key: VALUES[value] for key, value in metadata.items()})
        for chat in chats:
            session.add_message(Message.from_dict(chat))
        session.pinned = pinned
        self.kept[name] = session.snapshot()
        self.desk.storage.save_session(session)

    @rule(name=names, chats=some_chats, cut=st.integers(0, 3))
    def change(self, name: str, chats: list[dict[str, object]], cut: int) -> None:
        """What was loaded, with another end, saved again."""
        session = self.desk.storage.load_session(name)
        if session is not None:
            session.replace_messages([*list(session.messages)[: max(0, len(session.messages) - cut)],
                                      *(Message.from_dict(chat) for chat in chats)])
            self.kept[name] = session.snapshot()
            self.desk.storage.save_session(session)

    @rule(name=names)
    def delete(self, name: str) -> None:
        """True where there was one."""
        assert self.desk.storage.delete_session(name) is (self.kept.pop(name, None) is not None)

    @precondition(lambda self: self.desk.has(Power.REOPEN))
    @rule()
    def reopen(self) -> None:
        """Another object goes on."""
        self.desk.storage.close()
        self.desk.storage = self.desk.open()

    @invariant()
    def what_is_there_is_what_was_saved(self) -> None:
        """Under every name."""
        for name in NAMES:
            found, kept = self.desk.storage.load_session(name), self.kept.get(name)
            assert (found is None) is (kept is None), f"{name!r}: expected {kept!r}, found {found!r}"
            if found is not None and kept is not None:
                assert differences(kept, found) == {}
