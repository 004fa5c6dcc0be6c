"""Looks at the storage that come late for work which a cache keeps: more of it was kept meanwhile, or what it is part of is gone.

What was seen is taken up wherever that is right, and whatever is not known to be right takes another look.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta

import pytest

from bamboo_sessions import MemoryStorage, Message, Session
from bamboo_sessions.testing import FailingStorage
from tests.support import (
    ChatsOnly,
    WholeSessions,
    applied_but_unknown,
    begin,
    bundle,
    failing,
    keep,
    keep_more,
    over,
    stored,
    texts,
)


def say(repo, *words):
    for word in words:
        repo.update("s", lambda session, word=word: session.add_message(Message.user(word)))


def kept_after_each_look(repo):
    """Somebody keeps more whenever this repository has looked."""

    def more():
        keep_more(repo, "more")
        repo.storage.at("was read", more)

    repo.storage.at("was read", more)


# -- work that is kept while a look is under way -----------------------------------------------------------------


@pytest.mark.parametrize("way", ["load_merged", "try_load_merged"])
def test_what_is_stored_is_shown_however_often_somebody_keeps_more(storage, clock, way):
    """P3: what was stored before the look began is shown, with all that is kept; and one look is enough."""
    repo = over(storage, clock)
    begin(repo, "one")
    keep_more(repo, "unsaved")
    say(bundle(repo.storage.inner, clock), "theirs")
    kept_after_each_look(repo)
    assert texts(getattr(repo, way)("s")) == ["one", "theirs", "unsaved", "more"]


def test_what_is_stored_is_shown_over_a_storage_without_births(clock):
    """P3: the same where a storage says of no session which life of it that is."""
    inner = ChatsOnly()
    repo, other = over(inner, clock), bundle(inner, clock)
    begin(repo, "one")
    keep_more(repo, "unsaved")
    theirs = other.load("s")
    theirs.add_message(Message.user("theirs"))
    other.save(theirs)
    kept_after_each_look(repo)
    assert texts(repo.load_merged("s")) == ["one", "theirs", "unsaved", "more"]


def test_what_is_stored_is_shown_beside_a_first_save_that_was_kept(clock):
    """P3: the same for work that was never saved, under an id that somebody else has saved."""
    inner = MemoryStorage(clock=clock)
    repo = over(inner, clock)
    offline = Session.new("s", clock=clock)
    offline.add_message(Message.user("offline"))
    keep(repo, offline)
    begin(bundle(inner, clock), "online")
    kept_after_each_look(repo)
    assert sorted(texts(repo.load_merged("s"))) == ["more", "offline", "online"]


@pytest.mark.parametrize("commits", [3, 70])
def test_what_is_stored_is_shown_beside_a_save_of_unknown_outcome(clock, commits):
    """P3: the same where a save was tried, and as many commits ago that nobody can say any more what became of it."""
    inner = MemoryStorage(clock=clock)
    repo = over(inner, clock)
    begin(repo, "one")
    session = repo.load("s")
    session.add_message(Message.user("tried"))
    keep(repo, session, fails=failing("unknown"))
    theirs = [f"theirs {number}" for number in range(commits)]
    say(bundle(inner, clock), *theirs)
    kept_after_each_look(repo)
    assert texts(repo.load_merged("s")) == ["one", *theirs, "tried", "more"]


# -- storages that lost something --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["a backup", "room was made"])
def test_what_is_stored_in_a_storage_that_counts_anew_is_shown(clock, how):
    """P3: a lower revision than that of what is cached may be the newer state."""
    inner = MemoryStorage(1, evict="lru", clock=clock)
    repo, other = over(inner, clock), bundle(inner, clock)
    begin(repo, "one")
    backup, old = deepcopy(inner._kept["s"]), other.load("s")
    say(repo, "two", "three")
    keep_more(repo, "kept")
    if how == "a backup":
        inner._kept["s"] = backup
        say(bundle(inner, clock), "theirs")
    else:
        other.save(Session.new("takes the room", clock=clock))
        old.add_message(Message.user("theirs"))
        bundle(inner, clock).save(old)
    repo.storage.at("was read", lambda: keep_more(repo, "more"))
    assert sorted(texts(repo.load_merged("s"))) == ["kept", "more", "one", "theirs", "three", "two"]


def test_what_is_stored_in_a_plain_storage_that_came_back_from_a_backup_is_shown(clock):
    """P3: the same over three methods."""
    inner = WholeSessions()
    repo = over(inner, clock)
    begin(repo, "one")
    backup = deepcopy(inner.kept["s"])
    say(repo, "two", "three")
    keep_more(repo, "kept")
    inner.kept["s"] = backup
    say(bundle(inner, clock), "theirs")
    repo.storage.at("was read", lambda: keep_more(repo, "more"))
    assert sorted(texts(repo.load_merged("s"))) == ["kept", "more", "one", "theirs", "three", "two"]


def test_a_cold_load_of_a_storage_that_counts_anew_shows_what_it_holds(clock):
    """P3: beside work that is kept meanwhile of a copy which the storage lost."""
    inner = MemoryStorage(clock=clock)
    repo = over(inner, clock)
    begin(repo, "one")
    backup = deepcopy(inner._kept["s"])
    say(repo, "two", "three")
    holder = repo.load("s")
    inner._kept["s"] = backup
    say(bundle(inner, clock), "theirs")
    repo.cache.invalidate("s")
    holder.add_message(Message.user("kept"))
    repo.storage.at("was read", lambda: keep(repo, holder))
    assert sorted(texts(repo.load_merged("s"))) == ["kept", "one", "theirs", "three", "two"]


# -- what only looks like the same -------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["edit", "remove"])
@pytest.mark.parametrize("way", ["load", "load_merged"])
def test_a_cold_load_does_not_undo_what_is_kept_over_a_storage_without_message_ids(clock, deed, way):
    """P1, P2: such a storage makes ids of the text, and a holder's message keeps its own through an edit. A look that named no state
    finds that message under another id: put beneath his next change, it would be there twice, or again."""
    storage = ChatsOnly()
    begin(bundle(storage, clock), "one", "two")
    repo = over(storage, clock)
    holder = repo.load("s")
    mine = holder.messages[0].id
    holder.replace_message(mine, Message.user("ONE", id=mine))
    repo.save(holder)
    repo.cache.invalidate("s")

    def meanwhile():
        if deed == "edit":
            holder.replace_message(mine, Message.user("Uno", id=mine))
        else:
            holder.remove_message(mine)
        keep(repo, holder)

    repo.storage.at("was read", meanwhile)
    expected = ["Uno", "two"] if deed == "edit" else ["two"]
    assert texts(getattr(repo, way)("s")) == expected
    repo.flush()
    assert texts(stored(repo.storage, "s")) == expected


@pytest.mark.parametrize("cached", ["kept work", "a committed state"])
def test_a_session_that_is_deleted_during_a_look_is_not_shown_for_what_is_kept_since(clock, cached):
    """P9: an older copy, kept after the deletion, stands on the very state that the look began from. It is not what was there."""
    repo = over(MemoryStorage(clock=clock), clock)
    begin(repo, "one")
    if cached == "kept work":
        keep_more(repo, "more")
    older = repo.load("s")
    older.add_message(Message.user("older"))
    if cached == "a committed state":
        say(bundle(repo.storage.inner, clock), "theirs")

    def meanwhile():
        keep(repo, older, point="read")
        repo.delete("s")
        keep(repo, older, point="read")

    repo.storage.at("was read", meanwhile)
    assert repo.load_merged("s") is None


def test_a_first_save_of_unknown_outcome_during_a_look_is_not_mixed_with_what_that_saw(clock):
    """P9: what the look saw was deleted, then the first save of another session of the id was applied, its answer was lost, and that
    one was deleted as well: nothing is left of either."""
    inner = MemoryStorage(clock=clock)
    repo, other = over(inner, clock), bundle(inner, clock)
    begin(other, "one")
    mine = Session.new("s", clock=clock)
    mine.add_message(Message.user("mine"))

    def meanwhile():
        other.delete("s")
        keep(repo, mine, point="was committed", fails=applied_but_unknown)
        other.delete("s")

    repo.storage.at("was read", meanwhile)
    assert repo.load_merged("s") is None


@pytest.mark.parametrize("back", [0, 1])
def test_a_life_that_ended_during_a_look_is_not_seen_again_over_a_storage_without_births(clock, back):
    """P9: deleted and made anew while a cold load is under way, and work kept on the new one, whatever the clock says."""
    storage = ChatsOnly()
    begin(bundle(storage, clock), "old")
    repo, other = over(storage, clock), bundle(storage, clock)
    clock.jump(seconds=-back)

    def meanwhile():
        repo.delete("s")
        begin(other, "new")
        keep_more(repo, "more")

    repo.storage.at("was read", meanwhile)
    assert texts(repo.load_merged("s")) == ["new", "more"]


class Purged(MemoryStorage):
    """Its sessions expire and are purged when they are looked at next; then `meanwhile` is called."""

    meanwhile = None

    def read(self, session_id, known=None):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            self.clock.forward(hours=2)
            self.purge_record(session_id)
        answer = super().read(session_id, known)
        if meanwhile is not None:
            meanwhile()
        return answer


def test_work_is_not_given_up_where_its_session_expires_during_a_look(clock):
    """P1: its time ran out and it was purged, and work on it was kept meanwhile: what the look found is no deletion of that."""
    inner = Purged(ttl=timedelta(hours=1), clock=clock)
    storage = FailingStorage(inner)
    repo = bundle(storage, clock)
    begin(repo, "one")
    older = repo.load("s")
    older.add_message(Message.user("kept"))
    with repo.cache.with_mut("s") as cached:
        cached.title = "changed in the cache"

    def meanwhile():
        storage.fail("read")
        repo.save_and_cache(older)

    inner.meanwhile = meanwhile
    repo.load_merged("s")
    repo.flush()
    assert [texts(stored(inner, entry.id)) for entry in bundle(inner, clock).list().items] == [["one", "kept"]]
