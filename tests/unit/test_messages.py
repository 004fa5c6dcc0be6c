"""The sequence of messages: equals a list, shares what it can, and no copy sees another one's additions."""

from __future__ import annotations

import random
from copy import copy, deepcopy
from pickle import dumps, loads
from threading import Barrier, Thread

import pytest

from bamboo_sessions.models import Message, Messages


def some(n, prefix="m"):
    return [Message.user(f"{prefix}{i}", id=f"{prefix}{i}") for i in range(n)]


def both_kinds():
    """The same ten messages: all committed, all in the tail, and some of each."""
    ten = some(10)
    return ten, [Messages.of(ten), Messages.of(()).appended(*ten), Messages.of(ten[:6]).appended(*ten[6:]),
                 Messages.of([*ten[:4], *some(3, "x")]).kept(4).appended(*ten[4:])]


def test_it_reads_like_the_list_of_its_messages():
    """Every index, slice, membership and iteration, over all ways to be stored."""
    ten, kinds = both_kinds()
    ends = [None, -11, -10, -7, -1, 0, 1, 3, 4, 5, 6, 7, 9, 10, 12]
    for kind in kinds:
        assert len(kind) == 10
        assert [kind[i] for i in range(-10, 10)] == [ten[i] for i in range(-10, 10)]
        for start in ends:
            for stop in ends:
                for step in (None, 1, 2, -1, -3):
                    assert kind[start:stop:step] == ten[start:stop:step]
                    assert type(kind[start:stop:step]) is list
        for i in (10, -11, 10**9):
            with pytest.raises(IndexError):
                kind[i]
        assert list(reversed(kind)) == ten[::-1]
        assert ten[3] in kind
        assert kind.index(ten[7]) == 7


def test_it_equals_a_list_from_either_side_and_adds_to_lists():
    """`+` gives lists."""
    ten, kinds = both_kinds()
    more = some(2, "y")
    for kind in kinds:
        assert kind == ten
        assert ten == kind
        assert kind != ten[:9]
        assert ten[1:] != kind
        assert kind + more == ten + more
        assert more + kind == more + ten
        assert type(kind + more) is type(more + kind) is list
        assert all(kind == other for other in kinds)
    assert Messages.of(()) == []
    assert Messages.of(some(1)) != 5


@pytest.mark.parametrize("change", [
    lambda m: m.append(1), lambda m: m.extend([1]), lambda m: m.insert(0, 1), lambda m: m.pop(), lambda m: m.remove(1),
    lambda m: m.clear(), lambda m: m.sort(), lambda m: m.reverse(), lambda m: m.__setitem__(0, 1),
    lambda m: m.__delitem__(0), lambda m: m.__iadd__([1]), lambda m: m.__imul__(2),
])
def test_every_way_to_change_it_in_place_names_the_method_to_use(change):
    """A TypeError that helps."""
    messages = Messages.of(some(2))
    with pytest.raises(TypeError, match="add_message"):
        change(messages)
    assert messages == some(2)


def test_two_copies_that_share_a_tail_and_both_append_do_not_see_each_other():
    """The second one to go its own way gets a tail of its own; earlier snapshots stay what they were."""
    start = Messages.of(some(3)).appended(*some(2, "t"))
    mine, theirs = start.appended(*some(1, "mine")), start.appended(*some(2, "theirs"))
    assert [m.id for m in start] == ["m0", "m1", "m2", "t0", "t1"]
    assert [m.id for m in mine] == ["m0", "m1", "m2", "t0", "t1", "mine0"]
    assert [m.id for m in theirs] == ["m0", "m1", "m2", "t0", "t1", "theirs0", "theirs1"]
    assert [m.id for m in start.appended(*some(1, "third"))] == ["m0", "m1", "m2", "t0", "t1", "third0"]


def test_threads_that_append_to_copies_of_one_tail_each_get_their_own():
    """Nobody's messages turn up in another's copy, whoever was first."""
    start = Messages.of(some(2)).appended(*some(1, "t"))
    barrier, made = Barrier(8), {}

    def writer(name):
        copy_, mine = start, some(200, name)
        barrier.wait()
        for message in mine:
            copy_ = copy_.appended(message)
        made[name] = [m.id for m in copy_] == ["m0", "m1", "t0", *(m.id for m in mine)]

    threads = [Thread(target=writer, args=(f"w{i}-",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == {f"w{i}-": True for i in range(8)}


def test_threads_that_catch_up_with_commits_share_one_backing():
    """Readers that bring the same commits in find them in place: one list, each message once."""
    base, new = Messages.of(some(5)), some(300, "n")
    barrier, made = Barrier(4), []

    def reader():
        now = base
        barrier.wait()
        for message in new:
            now = now.committed(len(now), [Message.from_line(message.line)])
        made.append(now)

    threads = [Thread(target=reader) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [m.id for m in made[0]] == [m.id for m in [*some(5), *new]]
    assert all(one.shared_with(base) == 5 for one in made)
    assert all(one.shared_with(other) == 305 for one in made for other in made)


def test_appending_and_snapshots_copy_nothing():
    """The lists behind a long sequence are the very same ones after an append: O(1), counted, not timed."""
    start = Messages.of(some(50))
    now = start.appended(*some(1, "t"))
    tail = now._tail
    for message in some(20, "u"):
        now = now.appended(message)
    assert now._backing is start._backing
    assert now._tail is tail
    assert copy(now) is now
    assert deepcopy(now) is now
    assert len(start._backing.items) == 50


def test_unsaved_additions_never_reach_the_committed_list():
    """Dropping a copy leaves nothing behind."""
    start = Messages.of(some(3))
    start.appended(*some(5, "t"))
    assert [m.id for m in start._backing.items] == ["m0", "m1", "m2"]


def test_a_commit_that_another_one_overtook_gets_a_list_of_its_own():
    """Two different futures of one prefix cannot share one list."""
    start = Messages.of(some(3))
    one, other = start.committed(3, some(1, "a")), start.committed(3, some(1, "b"))
    cut = start.committed(1, some(1, "c"))
    assert [m.id for m in one] == ["m0", "m1", "m2", "a0"]
    assert [m.id for m in other] == ["m0", "m1", "m2", "b0"]
    assert [m.id for m in cut] == ["m0", "c0"]
    assert [m.id for m in start] == ["m0", "m1", "m2"]


def test_what_is_said_to_be_shared_is_equal():
    """Over random growth of many copies: no claim of sharing that the messages do not bear out, and each copy intact."""
    dice = random.Random(7)
    made = [(Messages.of(some(4)), [m.id for m in some(4)])]
    for step in range(400):
        messages, ids = dice.choice(made)
        new = some(dice.randrange(3), f"s{step}-")
        k = dice.randrange(len(ids) + 1)
        match dice.randrange(3):
            case 0:
                made.append((messages.appended(*new), ids + [m.id for m in new]))
            case 1:
                made.append((messages.kept(k), ids[:k]))
            case _:
                made.append((messages.committed(k, new), ids[:k] + [m.id for m in new]))
    for messages, ids in made:
        assert [m.id for m in messages] == ids
    for _ in range(4000):
        (one, ids), (other, others) = dice.choice(made), dice.choice(made)
        shared = one.shared_with(other)
        assert ids[:shared] == others[:shared]
        assert len(ids[:shared]) == shared


def test_an_index_is_found_from_the_end_and_missing_is_minus_one():
    """By id, in both parts."""
    messages = Messages.of(some(3)).appended(*some(2, "t"))
    assert [messages.index_of(i) for i in ("m0", "m2", "t0", "t1", "no")] == [0, 2, 3, 4, -1]


def test_it_pickles_and_stays_usable():
    """Sharing within one pickle included."""
    start = Messages.of(some(3)).appended(*some(2, "t"))
    longer = start.appended(*some(1, "u"))
    start2, longer2 = loads(dumps((start, longer)))
    assert (start2, longer2) == (start, longer)
    assert longer2.shared_with(start2) == 5
    assert [m.id for m in start2.appended(*some(1, "v"))][-2:] == ["t1", "v0"]
