"""The sequence of messages: equals a list, shares what it can, and no copy sees another one's additions."""

from __future__ import annotations

import random
import time
from copy import copy, deepcopy
from pickle import dumps, loads
from threading import Barrier, Thread

import pytest

from bamboo_sessions.models import Message, Messages


def some(n, prefix="m"):
    return [Message.user(f"{prefix}{i}", id=f"{prefix}{i}") for i in range(n)]


def lines_of(messages):
    return [message.line for message in messages]


def both_kinds():
    """The same ten messages: all committed, all in the tail, some of each, and not made yet."""
    ten = some(10)
    half = Messages.of_lines(lines_of(ten))
    assert half[4:7] == ten[4:7]
    return ten, [Messages.of_lines(lines_of(ten)), Messages.of_lines(lines_of(ten[:6])).appended(*ten[6:]), half, Messages.of(ten), Messages.of(()).appended(*ten), Messages.of(ten[:6]).appended(*ten[6:]),
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
    made = [(make, [m.id for m in some(4)]) for make in (Messages.of(some(4)), Messages.of_lines(lines_of(some(4))))]
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


# -- messages that nobody looked at yet ----------------------------------------------------------------------------


def test_a_message_is_made_when_it_is_looked_at_and_not_before(monkeypatch):
    """Loading, copying, appending, committing and counting make none; one look makes one."""
    made, from_line = [], Message.from_line
    monkeypatch.setattr(Message, "from_line", lambda line: made.append(line) or from_line(line))
    ten = some(10)
    messages = Messages.of_lines(lines_of(ten))
    longer = copy(messages).appended(*some(2, "t")).kept(11)
    committed = messages.committed(10, some(1, "u"))
    assert (len(messages), len(longer), len(committed), messages.shared_with(longer)) == (10, 11, 11, 10)
    assert committed.same_as(messages.committed(10, some(1, "u")))
    assert made == []
    assert committed[-1].id == "u0"
    assert made == []
    assert longer[-2] == ten[9]
    assert made == [ten[9].line]
    assert messages[2:4] == ten[2:4]
    assert list(messages) == ten
    assert sorted(made) == sorted(lines_of(ten))


def test_everybody_gets_the_same_message_whichever_way_it_is_asked_for():
    """By index, slice, iteration, id, and through any copy: one object a place, as merges take for granted."""
    messages = Messages.of_lines(lines_of(some(12)))
    assert Messages.of_lines(lines_of(some(12))).index_of("m3") == 3
    ways = [messages[3], messages[3:4][0], messages[-9], messages[3:0:-1][0], messages.kept(5)[3], list(messages)[3],
            messages[messages.index_of("m3")], messages.appended(*some(1, "t"))[3], messages.committed(12, some(1, "u"))[3],
            next(m for m in messages if m.id == "m3")]
    assert all(message is ways[0] for message in ways)


@pytest.mark.parametrize("ask", [
    lambda messages: [messages[i] for i in range(len(messages))],
    lambda messages: [messages[i] for i in range(len(messages) - 1, -1, -1)][::-1],
    lambda messages: [m for i in range(0, len(messages), 50) for m in messages[i : i + 50]],
    list,
])
def test_threads_that_look_at_once_get_the_same_messages(ask, monkeypatch):
    """Two that ask for one line at the same moment: only one of them makes the message."""
    from_line = Message.from_line

    def slow(line):
        time.sleep(0)  # lets another thread go on exactly where two could make one each
        return from_line(line)

    messages, barrier, seen = Messages.of_lines(lines_of(some(400))), Barrier(4), []
    monkeypatch.setattr(Message, "from_line", slow)

    def reader(way):
        barrier.wait()
        seen.append(way(messages))

    threads = [Thread(target=reader, args=(way,)) for way in (ask, ask, list, ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [m.id for m in seen[0]] == [f"m{i}" for i in range(400)]
    assert all(a is b for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


def test_a_commit_finds_its_messages_in_place_also_where_they_are_still_lines():
    """The same ones are shared, others get a list of their own, and the longer copy stays what it is."""
    whole = Messages.of_lines(lines_of(some(5)))
    start = whole.kept(3)
    same, other = start.committed(3, some(5)[3:]), start.committed(3, some(2, "x"))
    assert same.shared_with(whole) == 5
    assert other.shared_with(whole) == 0
    assert [m.id for m in other] == ["m0", "m1", "m2", "x0", "x1"]
    assert [m.id for m in whole] == ["m0", "m1", "m2", "m3", "m4"]


def test_messages_that_nobody_looked_at_pickle():
    """All of them, or some."""
    for looked in ([], [4], [0, 2], [3, 4]):
        messages = Messages.of_lines(lines_of(some(5)))
        for i in looked:
            messages[i]
        again = loads(dumps(messages))
        assert [again[i].id for i in (4, 0)] == ["m4", "m0"]
        assert again == some(5)
