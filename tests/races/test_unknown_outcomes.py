"""Saves whose outcome nobody knows: applied or not, the next save drops nothing, doubles nothing, re-opens nothing."""

from __future__ import annotations

import pickle

import pytest

from bamboo_sessions import MemoryStorage, Message, Session, SessionDeleted, StorageUnavailable
from tests.support import WholeSessions, begin, bundle, failing, open_calls, steered, texts
from tests.support import stored as newest


class Unreliable:
    """A three-method storage whose saves and deletions fail by themselves, before or after the fact."""

    def __init__(self, inner):
        self.save, self.delete, self._once = inner.save_session, inner.delete_session, {}
        inner.save_session = lambda session: self._around("commit", "was committed", self.save, session)
        inner.delete_session = lambda session_id: self._around("delete", "was deleted", self.delete, session_id)

    def at(self, point, do):
        self._once[point] = do

    def _around(self, before, after, act, argument):
        for point in (before, after):
            if point == after:
                answer = act(argument)
            if point in self._once:
                self._once.pop(point)
                raise ConnectionResetError(point)
        return answer


@pytest.fixture(params=["memory", "json_files", "three_methods"])
def repo(request, clock):
    """What stands at the points of `repo.storage` decides the outcome."""
    if request.param == "three_methods":
        own = WholeSessions()
        repo = bundle(own, clock)
        repo.storage = Unreliable(own)
        repo.storage.inner = own
        return repo
    json_files = request.param == "json_files"
    storage = request.getfixturevalue("json_storage") if json_files else MemoryStorage(clock=clock)
    return bundle(steered(storage), clock)


@pytest.fixture
def other(repo, clock):
    return bundle(repo.storage.inner, clock)


def stored(storage, session_id):
    return newest(storage.inner, session_id)


@pytest.fixture(params=[True, False], ids=["applied", "not applied"])
def applied(request):
    return request.param


def try_to_save(repo, session, applied):
    """A save that raises "unknown", and was applied or not."""
    repo.storage.at("was committed" if applied else "commit", failing("unknown"))
    with pytest.raises(StorageUnavailable) as caught:
        repo.save(session)
    assert caught.value.outcome == "unknown"


def test_a_retry_stores_each_message_once(repo, applied):
    """Whichever it was, the message is there once, and once more saved changes nothing."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    try_to_save(repo, session, applied)
    assert repo.save(session).changed is not applied
    assert texts(session) == texts(stored(repo.storage, "s")) == ["one", "two"]
    assert repo.save(session).changed is False


def test_a_retry_with_more_stores_the_rest(repo, applied):
    """What was added after the attempt is stored as well, behind what it had tried."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    try_to_save(repo, session, applied)
    session.add_message(Message.user("three"))
    session.metadata["k"] = 1
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == ["one", "two", "three"]
    assert stored(repo.storage, "s").metadata == {"k": 1}


def test_what_somebody_removed_in_between_is_not_put_back(repo, other):
    """Applied; then somebody who saw the message removed it, changed a key and set another title."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    session.metadata["k"] = "mine"
    session.set_title("mine")
    try_to_save(repo, session, applied=True)

    def undo(theirs):
        theirs.remove_message(theirs.messages[-1].id)
        theirs.metadata["k"] = "theirs"
        theirs.set_title("theirs")

    other.update("s", undo)
    session.add_message(Message.user("three"))
    repo.save(session)
    for after in (session, stored(repo.storage, "s"), repo.load("s")):
        assert (texts(after), after.metadata, after.title) == (["one", "three"], {"k": "theirs"}, "theirs")


def test_what_somebody_answered_in_between_is_not_asked_again(repo, other):
    """P4: asked in a save of unknown outcome, answered by somebody who saw it: closed it stays, with one result."""
    session = begin(repo, "one")
    session.set_pending_question(tool_call_id="call-1", question="?")
    try_to_save(repo, session, applied=True)
    other.answer("s", "call-1", "yes")
    session.add_message(Message.user("meanwhile"))
    repo.save(session)
    assert open_calls(session) == open_calls(stored(repo.storage, "s")) == []
    assert texts(stored(repo.storage, "s")).count("yes") == 1


def test_an_answer_of_unknown_outcome_is_applied_once(repo, applied):
    """P4: the copy that answered is saved again: one tool result, the question closed."""
    session = begin(repo, "one")
    session.set_pending_question(tool_call_id="call-1", question="?")
    repo.save(session)
    session.answer("call-1", "yes")
    try_to_save(repo, session, applied)
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == ["one", "yes"]
    assert open_calls(stored(repo.storage, "s")) == []


def test_a_removal_of_unknown_outcome_is_not_undone_nor_redone(repo, other, applied):
    """Removed in the attempt; somebody else wrote since: the message stays out, theirs stays in."""
    session = begin(repo, "one", "two")
    session.remove_message(session.messages[0].id)
    try_to_save(repo, session, applied)
    other.update("s", lambda s: s.add_message(Message.user("three")))
    repo.save(session)
    assert texts(session) == texts(stored(repo.storage, "s")) == ["two", "three"]


def test_taking_back_what_was_tried(repo, applied):
    """The object is put back as it was before the attempt: if that was applied, the message goes out again."""
    session = begin(repo, "one")
    added = session.add_message(Message.user("two"))
    try_to_save(repo, session, applied)
    session.remove_message(added.id)
    repo.save(session)
    assert texts(session) == texts(stored(repo.storage, "s")) == ["one"]


def test_what_others_removed_before_the_attempt_is_not_put_back_by_the_retry(repo, other, applied):
    """The object never saw what its own save merged; compared with that, what others removed is not its addition."""
    session = begin(repo, "one", "two", "three")
    session.metadata["k"] = 0
    repo.save(session)

    def theirs(s):
        s.remove_message(s.messages[0].id)
        del s.metadata["k"]
        s.add_message(Message.user("theirs"))

    other.update("s", theirs)
    session.add_message(Message.user("mine"))
    try_to_save(repo, session, applied)
    session.remove_message(session.messages[1].id)
    session.metadata["l"] = 1
    repo.save(session)
    for after in (session, stored(repo.storage, "s"), repo.load("s")):
        assert (texts(after), after.metadata) == (["three", "theirs", "mine"], {"l": 1})


def test_several_attempts_in_a_row(repo, other):
    """Each attempt is settled by the next save: applied, lost, applied, and somebody else in between."""
    session = begin(repo, "0")
    for number, applied in enumerate([True, False, True, True, False], 1):
        session.add_message(Message.user(str(number)))
        try_to_save(repo, session, applied)
        if number == 3:
            other.update("s", lambda s: s.remove_message(s.messages[1].id))
    repo.save(session)
    assert texts(session) == texts(stored(repo.storage, "s")) == ["0", "2", "3", "4", "5"]


def test_an_attempt_is_recognised_behind_many_later_commits(repo, other):
    """Sixty commits of others later its operation id is still known."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    try_to_save(repo, session, applied=True)
    other.update("s", lambda s: s.remove_message(s.messages[-1].id))
    for number in range(59):
        other.update("s", lambda s, number=number: s.metadata.update(n=number))
    repo.save(session)
    assert texts(session) == ["one"]


def test_the_attempt_travels_with_copies(repo, other):
    """A pickled or copied object knows what it tried."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    try_to_save(repo, session, applied=True)
    other.update("s", lambda s: s.remove_message(s.messages[-1].id))
    for copy in (pickle.loads(pickle.dumps(session)), session.snapshot()):
        repo.save(copy)
        assert texts(copy) == ["one"]


def test_a_failure_that_was_surely_not_applied_leaves_no_attempt(repo):
    """Nothing was tried as far as the storage goes; the retry stores it once."""
    session = begin(repo, "one")
    session.add_message(Message.user("two"))
    repo.storage.at("commit", failing("not applied"))
    with pytest.raises(StorageUnavailable):
        repo.save(session)
    assert repo.save(session).revision == 2
    assert texts(stored(repo.storage, "s")) == ["one", "two"]


# -- first saves -------------------------------------------------------------------------------------------------


def fresh(repo, *words):
    session = Session.new("s", clock=repo._clock)
    session.messages = [Message.user(word) for word in words]
    return session


def test_a_first_save_is_retried(repo, applied):
    """One session, each message once, of the birth that the object was made with."""
    session = fresh(repo, "one")
    birth = session.birth
    try_to_save(repo, session, applied)
    session.add_message(Message.user("two"))
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == ["one", "two"]
    assert stored(repo.storage, "s").birth == birth


def test_a_first_save_that_was_applied_and_deleted_stays_deleted(repo, other):
    """P9: an attempted first save counts as saved."""
    session = fresh(repo, "one")
    try_to_save(repo, session, applied=True)
    other.delete("s")
    with pytest.raises(SessionDeleted):
        repo.save(session)
    assert stored(repo.storage, "s") is None


def test_a_first_save_that_was_applied_deleted_and_made_anew_stays_out(repo, other):
    """P9: it does not merge into the successor."""
    session = fresh(repo, "one")
    try_to_save(repo, session, applied=True)
    other.delete("s")
    begin(other, "new")
    with pytest.raises(SessionDeleted) as caught:
        repo.save(session)
    assert caught.value.recreated
    assert texts(stored(repo.storage, "s")) == ["new"]


def test_a_first_save_that_was_not_applied_merges_with_a_stranger(repo, other):
    """Nothing of it was stored, so there is nothing that could have been deleted: two workers create one id."""
    session = fresh(repo, "one")
    try_to_save(repo, session, applied=False)
    begin(other, "theirs")
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == ["theirs", "one"]


def test_a_first_save_whose_message_was_removed_meanwhile(repo, other):
    """Applied, and then somebody removed what it said: it does not come back."""
    session = fresh(repo, "one", "two")
    try_to_save(repo, session, applied=True)
    other.update("s", lambda s: s.remove_message(s.messages[0].id))
    session.add_message(Message.user("three"))
    repo.save(session)
    assert texts(stored(repo.storage, "s")) == ["two", "three"]


# -- edits and deletions -----------------------------------------------------------------------------------------


def test_an_update_of_unknown_outcome_raises(repo, applied):
    """It is not run again by itself: that might do it twice. The caller looks, and decides."""
    begin(repo, "one")
    repo.storage.at("was committed" if applied else "commit", failing("unknown"))
    with pytest.raises(StorageUnavailable):
        repo.update("s", lambda s: s.add_message(Message.user("two")))
    assert texts(stored(repo.storage, "s")) == ["one", "two"] if applied else ["one"]


def test_a_deletion_of_unknown_outcome_can_be_repeated(repo, applied):
    """True or False, the session is gone after the second one, from the cache as well."""
    begin(repo, "one")
    repo.storage.at("was deleted" if applied else "delete", failing("unknown"))
    with pytest.raises(StorageUnavailable):
        repo.delete("s")
    assert repo.delete("s") is not applied
    assert repo.load("s") is None
    assert stored(repo.storage, "s") is None
