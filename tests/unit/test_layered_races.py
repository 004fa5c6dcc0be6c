"""Layers, when two are at work on one session: each race as an order of steps, one run inside the other."""

from __future__ import annotations

import pytest

from bamboo_sessions import LayeredStorage, MemoryStorage
from bamboo_sessions.testing.scribe import first, later
from tests.support import Steered, failing

ONE, TWO, THREE = first("s", "1"), later("s", 2, 1, "2"), later("s", 3, 2, "3")


class Table:
    """Layers whose steps a test can have its say in, with revision 1 in all of them."""

    def __init__(self, remembered=100):
        self.fast, self.middle, self.slow = (Steered(MemoryStorage()) for _ in range(3))
        self.layered = LayeredStorage([self.fast, self.middle, self.slow], remembered=remembered)
        self.layered.commit(ONE)

    def lose(self, *layers):
        for layer in layers:
            layer.inner.delete_record("s")

    def shown(self):
        """How many messages two plain loads give: the second one is a hit, if anything is."""
        found = {None if record is None else len(record.messages)
                 for record in (self.layered.read_plain("s"), self.layered.read_plain("s"))}
        assert len(found) == 1, found
        return found.pop()

    def unconfirmed(self):
        """What every layer above would have to give if it were asked."""
        return [getattr(layer.inner.read("s"), "head", {}).get("revision") for layer in (self.fast, self.middle)]


@pytest.fixture
def table():
    return Table()


@pytest.mark.parametrize("read", ["read_plain", "read"])
def test_a_reader_that_was_overtaken_by_a_commit_fills_nothing(table, read):
    """It read revision 1, revision 2 was committed, and then it comes to fill."""
    table.lose(table.fast, table.middle)
    table.slow.at("was read", lambda: table.layered.commit(TWO))
    assert len(getattr(table.layered, read)("s").messages) == 1
    table.slow.calls.clear()
    assert (table.shown(), table.slow.calls.count(("read", "s"))) == (2, 1)


@pytest.mark.parametrize("read", ["read_plain", "read"])
def test_a_reader_that_was_overtaken_by_a_deletion_brings_nothing_back(table, read):
    """It read the session, the session was deleted, and then it comes to fill."""
    table.lose(table.fast, table.middle)
    table.slow.at("was read", lambda: table.layered.delete_record("s"))
    getattr(table.layered, read)("s")
    assert (table.shown(), table.unconfirmed()) == (None, [None, None])


def test_of_two_readers_the_newer_one_stands(table):
    """Another process commits in between: whoever comes last, no load after both gives the older state."""
    table.lose(table.fast, table.middle)

    def meanwhile():
        table.slow.inner.commit(TWO)
        assert len(table.layered.read("s").messages) == 2

    table.slow.at("was read", meanwhile)
    table.layered.read_plain("s")
    assert table.shown() == 2


def test_of_two_readers_the_newer_one_stands_if_it_is_the_slower_one(table):
    """The one that read revision 2 comes after the one that filled revision 1: that is not served any more."""
    older = table.slow.inner.read("s")
    table.slow.inner.commit(TWO)
    table.lose(table.fast, table.middle)

    def meanwhile():
        right, table.slow.inner.read = table.slow.inner.read, lambda *_: older
        table.layered.read("s")
        table.slow.inner.read = right

    table.slow.at("was read", meanwhile)
    assert len(table.layered.read("s").messages) == 2
    assert table.shown() == 2


def test_a_hit_under_way_serves_what_it_looked_for_or_asks_again(table):
    """Between the look at what is known and the look at the copy a commit was made: no half of each."""
    table.fast.at("read", lambda: table.layered.commit(TWO))
    assert len(table.layered.read_plain("s").messages) == 2
    assert table.shown() == 2


def test_a_fill_from_the_middle_that_was_overtaken_is_not_believed(table):
    """The first layer is given the older state behind the back of a commit."""
    table.lose(table.fast)

    def meanwhile():
        table.layered.commit(TWO)
        table.layered.read_plain("s")

    table.middle.at("was read", meanwhile)
    assert len(table.layered.read_plain("s").messages) == 1
    assert (table.unconfirmed(), table.shown()) == ([2, 2], 2)


def test_an_older_fill_that_lands_on_a_newer_copy_is_not_believed(table):
    """The last moment: the fill has looked, and writes after the commit. The copy is wrong and nobody is shown it."""
    table.lose(table.fast)
    table.fast.at("commit", lambda: table.layered.commit(TWO))
    assert len(table.layered.read_plain("s").messages) == 1
    assert table.shown() == 2


def test_a_layer_that_is_filled_late_is_no_holder_of_what_came_since(table):
    """It had missed a commit; while the middle one fills it, the next commit is made: what is known stays the newer."""
    table.fast.at("commit", failing())
    table.layered.commit(TWO)
    table.fast.at("commit", lambda: table.layered.commit(THREE))
    assert len(table.layered.read_plain("s").messages) == 2
    assert table.shown() == 3


def test_of_two_commits_the_later_one_stands_whoever_ends_first(table):
    """Over a last layer without a lock: the first one returns when the second one is long done."""
    table.slow.at("was committed", lambda: table.layered.commit(THREE))
    table.layered.commit(TWO)
    assert table.shown() == 3


def test_a_late_commit_does_not_come_back_when_what_was_known_is_forgotten():
    """As above, and meanwhile so many other sessions came by that this one fell out of the table."""
    table = Table(remembered=2)

    def meanwhile():
        table.layered.commit(THREE)
        for name in "abc":
            table.layered.commit(first(name, "other"))

    table.slow.at("was committed", meanwhile)
    table.layered.commit(TWO)
    assert table.shown() == 3


@pytest.mark.parametrize("deleted_before", [False, True])
def test_a_first_commit_that_was_deleted_before_it_ends_is_not_shown(table, deleted_before):
    """Committed below, deleted through and through, and then its own last step: also where one was deleted before."""
    commit = first("s", "anew", birth="another birth", op="anew")
    if deleted_before:
        table.layered.delete_record("s")
    else:
        table = Table()
        table.slow.inner.delete_record("s")
        table.layered.read("s")
    table.slow.at("was committed", lambda: table.layered.delete_record("s"))
    table.layered.commit(commit)
    assert table.shown() is None


def test_a_deletion_that_meets_a_hit_ends_it(table):
    """After the deletion returned nothing is shown, though the copies go one by one."""
    seen = []
    table.fast.at("was deleted", lambda: seen.append(table.shown()))
    table.layered.delete_record("s")
    assert (seen, table.shown()) == ([None], None)


def test_an_absence_that_was_overtaken_clears_nothing_away(table):
    """A reader saw nothing, the session was made, and then it comes to clear away: the session is there."""
    table.layered.delete_record("s")
    commit = first("s", "anew", birth="another birth", op="anew")
    table.slow.at("was read", lambda: table.layered.commit(commit))
    assert table.layered.read_plain("s") is None
    assert (table.unconfirmed(), table.shown()) == ([1, 1], 1)


@pytest.mark.parametrize("layer", ["fast", "middle"])
@pytest.mark.parametrize("point", ["commit", "was committed"])
def test_an_interruption_between_the_layers_leaves_what_was_acknowledged(table, layer, point):
    """Ctrl-C while the layers above are written: nothing was acknowledged, nothing older than before is shown."""

    def interrupt():
        raise KeyboardInterrupt

    getattr(table, layer).at(point, interrupt)
    with pytest.raises(KeyboardInterrupt):
        table.layered.commit(TWO)
    assert table.shown() in (1, 2)
    assert len(table.layered.read("s").messages) == table.shown() == 2
