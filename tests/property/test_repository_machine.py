"""Several repositories on one storage, with clocks that disagree, storages that fail, and held copies: against a model.

Each repository stands for a process: its own cache of one or two sessions, its own store, its own storage object on
the shared folder (or the shared memory). Hypothesis chooses what happens; after every step each held copy, each cache
entry and the storage itself have to be what `model.World` says, which shares no code with the merge.

The default runs are the same at every call, so that a change is judged by what it did and not by the dice.
BAMBOO_SESSIONS_EXAMPLES asks for so many other ones.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bamboo_sessions import (
    JsonFileStorage,
    LockedSessionStore,
    MemoryStorage,
    Message,
    QuestionNotOpen,
    Session,
    SessionCache,
    SessionDeleted,
    SessionNotFound,
    SessionRepository,
    StorageError,
    StorageUnavailable,
    ToolCall,
)
from bamboo_sessions._files import Files
from tests.property.model import NOBODY, Copy, Deleted, Life, State, World

ASKED_FOR = os.environ.get("BAMBOO_SESSIONS_EXAMPLES")
REPOS, IDS, CALLS, KEYS, TAGS = 3, ("chat-1", "chat-2"), ("c1", "c2"), ("k1", "k2"), ("a", "b")

which = st.integers(0, 11)
repos = st.integers(0, REPOS - 1)
ids = st.sampled_from([*IDS[:1] * 3, *IDS])  # mostly one session: two that never meet show nothing
moods = st.sampled_from([None, None, None, None, "refused", "lost", "late"])


DONE = ("was refused", "was lost", "was late")


class ManualClock:
    """A clock that stands until it is told to jump, either way."""

    def __init__(self, start: datetime) -> None:
        self.time = start

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        pass


class Weather:
    """A storage, and what may befall whoever uses it: failures, lost answers, and somebody who is faster."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.reads_fail = False
        self.mood: str | None = None
        """What happens to the next commit: "refused", "lost" (nobody knows, it is not stored) or "late" (it is)."""
        self.after_read: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def is_current(self, stamp: Any) -> bool:
        """A glance meets no weather: where there is some, it takes a look."""
        if self.reads_fail or self.after_read is not None:
            return False
        return hasattr(self.inner, "is_current") and self.inner.is_current(stamp)

    def read_held(self, session_id: str, known: Any = None) -> Any:
        return self.read(session_id, known, getattr(self.inner, "read_held", self.inner.read))

    def read(self, session_id: str, known: Any = None, read: Callable[..., Any] | None = None) -> Any:
        if self.reads_fail:
            raise StorageUnavailable("read", session_id=session_id)
        answer = (read or self.inner.read)(session_id, known)
        meanwhile, self.after_read = self.after_read, None
        if meanwhile is not None:
            meanwhile()
        return answer

    def commit(self, commit: Any) -> Any:
        mood, self.mood = (None if self.mood in DONE else self.mood), None
        if mood == "refused":
            self.mood = "was refused"
            raise StorageUnavailable("commit")
        stamp = None if mood == "lost" else self.inner.commit(commit)
        if mood is not None:
            self.mood = f"was {mood}"
            raise StorageUnavailable("commit", outcome="unknown")
        return stamp


class Times(Files):
    """Files whose stamps are trusted at once or never: how much time passed between two steps must not matter."""

    def __init__(self, trusted: bool) -> None:
        self.now = 2**62 if trusted else 0

    def wall_ns(self) -> int:
        return self.now


class WatchedStore(LockedSessionStore):
    """The store; every save of a whole session, also one that the repository starts by itself, is told to the model."""

    def __init__(self, storage: Any, clock: ManualClock, machine: RepositoryMachine, number: int) -> None:
        super().__init__(storage, clock=clock)
        self.machine, self.number = machine, number

    def save(self, session: Session, **options: Any) -> Any:
        copy = self.machine.about_to_save(self.number, session)
        try:
            result = super().save(session, **options)
        except SessionDeleted:
            self.machine.was_refused(self.number, copy)
            raise
        except StorageError:
            self.machine.was_not_saved(self.number, copy)
            raise
        self.machine.was_saved(self.number, copy, session, result)
        return result


@dataclass
class Process:
    """One repository and what belongs to it."""

    repo: SessionRepository
    weather: Weather
    clock: ManualClock


@dataclass(eq=False)
class Held:
    """One copy in somebody's hands: the session, and what the model thinks it is."""

    session: Session
    copy: Copy


class RepositoryMachine(RuleBasedStateMachine):
    """See the module."""

    # -- the set-up

    @initialize(in_memory=st.booleans(), trusting=st.booleans(), sizes=st.lists(st.integers(1, 2), min_size=REPOS, max_size=REPOS))
    def start(self, in_memory: bool, trusting: bool, sizes: list[int]) -> None:
        self.trusting = trusting
        self.folder = tempfile.mkdtemp(prefix="bamboo-machine-")
        self.memory = MemoryStorage() if in_memory else None
        self.world, self.held, self.numbers = World(), [], iter(range(1, 10**6))
        self.seen: dict[tuple[int, str], int] = {}
        self.times: dict[str, list[tuple[int, datetime]]] = {}
        self.results: set[str] = set()
        self.failed: list[Copy] = []
        self.sizes = sizes
        self.clocks = [ManualClock(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=n)) for n in (0, -90, 7)]
        self.reader = self.storage()
        self.processes = [self.open(n) for n in range(REPOS)]
        self.somebody_begins(0)
        for r in range(REPOS):  # everybody holds a copy: what is interesting needs several from the start
            self.load_or_create(r, IDS[0])

    def somebody_begins(self, r: int) -> None:
        """A session with two messages in it."""
        self.load_or_create(r, IDS[0])
        held = self.held[-1]
        for _ in range(2):
            held.copy.now = add(self, held.session, held.copy.now, 1)
        self.save(len(self.held) - 1, r, None)

    def storage(self, clock: ManualClock | None = None) -> Any:
        return self.memory or JsonFileStorage(self.folder, durability="process", clock=clock or ManualClock(
            datetime(2026, 1, 1, tzinfo=UTC)), files=Times(self.trusting))

    def open(self, n: int) -> Process:
        clock = self.clocks[n]
        weather = Weather(self.storage(clock))
        cache: SessionCache[Session] = SessionCache(self.sizes[n], clock=clock)
        store = WatchedStore(weather, clock, self, n)
        return Process(SessionRepository(cache, weather, store, clock=clock), weather, clock)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for process in self.processes:
                process.weather.inner.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- what the store tells

    def about_to_save(self, r: int, session: Session) -> Copy:
        self.notice_evictions(r)
        for held in self.held:
            if held.session is session:
                return held.copy
        entry = self.world.caches.get((r, session.id))
        assert entry is not None, "the repository saves something that nobody gave it"
        assert entry.mark, "the repository saves something that nobody gave it"
        return entry

    def was_saved(self, r: int, copy: Copy, session: Session, result: Any) -> None:
        before = self.revision(copy.sid)
        try:
            life = self.world.commit(copy, session.birth)
        except Deleted:
            raise AssertionError("P9: a copy of a deleted session was saved") from None
        assert result.changed is (life.revision > before)
        assert result.revision == life.revision
        self.publish(r, life, copy.sid, copy.mark)
        for other in (held.copy for held in self.held if copy.mark and held.copy.mark == copy.mark and held.copy is not copy):
            other.comes_home(life)
        if any(held.copy is copy for held in self.held):
            copy.became(life)
            self.compare(session, copy)

    def publish(self, r: int, life: Life, sid: str, mark: int = 0) -> None:
        cached = self.processes[r].repo.cache.peek(sid)
        self.world.published(r, life, sid, mark, -1 if cached is None else cached.revision)

    def was_refused(self, r: int, copy: Copy) -> None:
        assert self.world.may_be_refused(copy), "SessionDeleted, and nobody deleted it"
        entry = self.world.caches.get((r, copy.sid))
        if entry is not None and entry.birth == copy.birth:
            del self.world.caches[r, copy.sid]

    def was_not_saved(self, r: int, copy: Copy) -> None:
        self.failed.append(copy)
        weather = self.processes[r].weather
        if weather.mood in DONE:  # it came as far as the commit
            self.world.settle(copy)
            copy.doubt = copy.doubt or weather.mood != "was refused"
        if weather.mood == "was late":
            self.world.went_through_after_all(copy, doubt=True)
        weather.mood = None

    def revision(self, sid: str) -> int:
        life = self.world.lives.get(sid)
        return 0 if life is None else life.revision

    # -- comparing

    def compare(self, session: Session, copy: Copy) -> None:
        """What the session says is what the model says, and every order that somebody saw still holds."""
        copy.now = self.settled(session, copy.now)
        assert session.birth == copy.birth
        assert session.revision == copy.revision

    def settled(self, session: Session, expected: State) -> State:
        found = plain(session)
        assert found.same(expected), f"found {found}\nexpected {expected}"
        [order] = found.orders
        assert len(order) == len(set(order)) == len(found.messages)
        for wanted in expected.orders:
            free = [message_id for message_id in wanted if message_id not in self.results]  # those go to their calls
            assert [message_id for message_id in order if message_id in set(free)] == free, f"{order}: {free} was seen"
        return replace(expected, orders=found.orders)

    def notice_evictions(self, r: int) -> None:
        for sid in IDS:
            if (r, sid) in self.world.caches and self.processes[r].repo.cache.peek(sid) is None:
                self.world.evicted(r, sid)

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        if not hasattr(self, "processes"):
            return
        for held in self.held:
            self.compare(held.session, held.copy)  # P6: nobody else's doing has changed it
        for sid in IDS:
            self.check_stored(sid)
            for r in range(REPOS):
                self.check_cached(r, sid)

    def check_stored(self, sid: str) -> None:
        stored, life = self.reader.load_session(sid), self.world.lives.get(sid)
        if life is None:
            assert stored is None, "P9: deleted, and there again"
            return
        assert stored is not None, "an acknowledged session is gone"
        life.states[-1] = self.settled(stored, life.newest)
        assert (stored.birth, stored.revision) == (life.birth, life.revision)
        times = self.times.setdefault(life.birth, [])
        if not times or times[-1][0] < stored.revision:
            assert not times or times[-1][1] < stored.updated_at, "P10: time went back"
            times.append((stored.revision, stored.updated_at))

    def check_cached(self, r: int, sid: str) -> None:
        self.notice_evictions(r)
        cached, entry = self.processes[r].repo.cache.peek(sid), self.world.caches.get((r, sid))
        assert (cached is None) == (entry is None), f"cached {cached}, the model has {entry}"
        if cached is not None and entry is not None:
            self.compare(cached, entry)
            if not entry.mark:  # what is kept while the storage is away may descend from an older one
                assert self.seen.get((r, cached.birth), 0) <= cached.revision, "P3: the cache went backwards"
                self.seen[r, cached.birth] = cached.revision
            assert (sid in self.processes[r].repo.cache.unsaved_ids()) is bool(entry.mark)

    def took(self, session: Session | None, copy: Copy | None) -> None:
        """Somebody was given a session; it goes into their hands."""
        assert (session is None) == (copy is None), f"given {session}, the model has {copy}"
        if session is None or copy is None:
            return
        self.compare(session, copy)
        self.held.append(Held(session, copy))
        del self.held[:-6]

    def pick(self, n: int) -> Held:
        return self.held[n % len(self.held)]

    def name(self) -> str:
        return f"{next(self.numbers)}"

    @contextmanager
    def mood(self, r: int, mood: str | None, *, reads_fail: bool = False) -> Iterator[None]:
        weather = self.processes[r].weather
        weather.mood, weather.reads_fail = mood, reads_fail
        try:
            yield
        finally:
            weather.mood, weather.reads_fail, weather.after_read = None, False, None

    # -- loading

    @rule(r=repos, sid=ids)
    def load_or_create(self, r: int, sid: str) -> None:
        self.notice_evictions(r)
        session, copy = self.processes[r].repo.load_or_create(sid), self.world.load(r, sid)
        self.took(session, copy or Copy(sid, State(), session.birth))

    @rule(r=repos, sid=ids, fails=st.sampled_from([False, False, True]), merged=st.booleans())
    def load(self, r: int, sid: str, fails: bool, merged: bool) -> None:
        self.notice_evictions(r)
        repo, world = self.processes[r].repo, self.world
        with self.mood(r, None, reads_fail=fails):
            if merged:
                session, entry = repo.load_merged(sid), world.caches.get((r, sid))
                if session is None and entry is not None and world.may_be_refused(entry):
                    world.caches.pop((r, sid))  # never saved, as far as it knows, but a sibling was, and is deleted
                self.took(session, world.load_merged(r, sid, readable=not fails))
            else:
                self.took(repo.load(sid), world.load(r, sid, readable=not fails))

    @precondition(lambda self: self.held)
    @rule(n=which, r=repos, deletes=st.sampled_from([False, False, True]), same=st.booleans(), merged=st.booleans())
    def load_while_somebody_is_faster(self, n: int, r: int, deletes: bool, same: bool, merged: bool) -> None:
        """The storage was read; before the cache is filled, somebody saves or deletes."""
        held, other = self.pick(n), r if same else (r + 1) % REPOS
        sid = held.copy.sid
        self.notice_evictions(r)
        entry = self.world.caches.get((r, sid))
        if entry is not None and entry.mark:
            return  # nothing is filled in over what is unsaved
        if held.copy.mark and held.copy.kept_by != other:
            return
        process = self.processes[r]
        expected: list[Copy | None] = []

        def meanwhile() -> None:
            if not same:  # the cache is not told: what was read is filled in
                expected.append(self.world.load_merged(r, sid) if merged else self.world.load(r, sid))
            elif not merged and (deletes or sid not in self.world.lives):  # what was read is given to this caller, and not kept
                expected.append(self.as_read(sid))
            if deletes:
                self.delete(other, sid)
            else:
                self.save(n, other, None)

        with self.mood(r, None):
            process.weather.after_read = meanwhile
            session = (process.repo.load_merged if merged else process.repo.load)(sid)
        life = self.world.lives.get(sid)
        newest = None if life is None else (life.birth, life.revision)
        if merged and newest == (None if session is None else (session.birth, session.revision)):
            expected.clear()  # it looked a second time, as it may
        if not expected:
            expected.append(self.world.load_merged(r, sid) if merged else self.world.load(r, sid))
        self.took(session, expected[0])

    def as_read(self, sid: str) -> Copy | None:
        life = self.world.lives.get(sid)
        if life is None:
            return None
        copy = Copy(sid, life.newest, life.birth)
        copy.became(life)
        return copy

    # -- changing what one holds

    @precondition(lambda self: self.held)
    @rule(n=which, data=st.data())
    def change(self, n: int, data: st.DataObject) -> None:
        held = self.pick(n)
        held.copy.now = self.some_deed(data)(held.session, held.copy.now)

    @precondition(lambda self: self.held)
    @rule(n=which, data=st.data(), r=repos, mood=moods)
    def turn(self, n: int, data: st.DataObject, r: int, mood: str | None) -> None:
        """The two together, so that runs are not all about what nobody stores."""
        self.change(n, data)
        self.save(n, r, mood)

    @precondition(lambda self: len(self.held) > 1)
    @rule(n=which, data=st.data(), r=repos)
    def two_at_once(self, n: int, data: st.DataObject, r: int) -> None:
        """Two holders change their copies, and then both save."""
        for change in (n, n + 1):
            self.change(change, data)
        first, second = self.pick(n), self.pick(n + 1)
        for held in (first, second):
            if held in self.held:
                self.save(self.held.index(held), r, None)
                r = (r + 1) % REPOS

    def some_deed(self, data: st.DataObject) -> Callable[[Session, State], State]:
        kind = data.draw(st.sampled_from(DEEDS))
        number = data.draw(which)
        return lambda session, state: kind(self, session, state, number)

    @precondition(lambda self: self.held)
    @rule(n=which, pickled=st.booleans())
    def copy(self, n: int, pickled: bool) -> None:
        held = self.pick(n)
        pickled = pickled and not held.copy.mark  # such a copy does not hear what becomes of kept work
        session = pickle.loads(pickle.dumps(held.session)) if pickled else deepcopy(held.session)
        self.took(session, held.copy.clone())

    # -- saving

    @precondition(lambda self: self.held)
    @rule(n=which, r=repos, mood=moods)
    def save(self, n: int, r: int, mood: str | None) -> None:
        """Through any repository: a copy may travel between processes."""
        held = self.pick(n)
        if held.copy.mark:
            r, mood = held.copy.kept_by, mood and "refused"
        with self.mood(r, mood):
            try:
                with suppress(StorageError):
                    self.processes[r].repo.save(held.session)
            except SessionDeleted:
                self.held.remove(held)

    @precondition(lambda self: self.held)
    @rule(n=which, r=repos, mood=moods, reads_fail=st.booleans())
    def save_and_cache(self, n: int, r: int, mood: str | None, reads_fail: bool) -> None:
        held = self.pick(n)
        if held.copy.mark:
            r = held.copy.kept_by
        entry = self.world.caches.get((r, held.copy.sid))
        if entry is not None:
            if entry.mark and (entry.mark, entry.revision) != (held.copy.mark, held.copy.revision):
                return  # work of several
            if entry.birth != held.copy.birth or entry.doubt or held.copy.doubt:
                return  # while the storage is away nobody can say which life is over, or what is stored already
            mood = mood and "refused"
        self.failed.clear()
        with self.mood(r, mood, reads_fail=reads_fail):
            try:
                self.processes[r].repo.save_and_cache(held.session)
            except SessionDeleted:
                self.held.remove(held)
        if held.copy in self.failed:
            self.notice_evictions(r)
            mark = held.copy.mark
            self.world.keep(r, held.copy)
            self.let_go(mark, held.copy)

    def let_go(self, mark: int, of: Copy) -> None:
        """Others who hold copies of kept work that has gone on in another entry: what becomes of theirs is told elsewhere."""
        self.held = [held for held in self.held if held.copy is of or not mark or held.copy.mark != mark]

    @rule(r=repos, mood=moods)
    def flush(self, r: int, mood: str | None) -> None:
        with self.mood(r, mood), suppress(StorageError):
            self.processes[r].repo.flush()

    @precondition(lambda self: self.world.lives)
    @rule(r=repos, sid=ids, mood=moods, data=st.data())
    def update(self, r: int, sid: str, mood: str | None, data: st.DataObject) -> None:
        """On the newest, by whoever: the repository's own face for people's edits."""
        deed, made = self.some_deed(data), []
        life = self.world.lives.get(sid)

        def change(session: Session) -> None:
            assert life is not None
            made[:] = [deed(session, self.settled(session, life.newest))]

        with self.mood(r, mood):
            try:
                if data.draw(st.booleans()):
                    self.processes[r].repo.update(sid, change)
                else:
                    with self.processes[r].repo.edit(sid) as session:
                        change(session)
            except SessionNotFound:
                assert life is None
                return
            except StorageError:
                if self.processes[r].weather.mood == "was late":
                    life.states.append(made[0])
                return
        if not made[0].same(life.newest):
            life.states.append(made[0])
        self.notice_evictions(r)
        self.publish(r, life, sid)

    @rule(r=repos, sid=ids, call=st.sampled_from(CALLS))
    def answer(self, r: int, sid: str, call: str) -> None:
        """Exactly once: whoever comes second is told so."""
        repo, life = self.processes[r].repo, self.world.lives.get(sid)
        if life is None:
            return
        open_now = [token for token, (asked, _) in life.newest.asked.items() if asked == call]
        try:
            repo.answer(sid, call, f"answer {self.name()}")
        except QuestionNotOpen:
            assert not open_now, "P4: an open question could not be answered"
            return
        assert open_now, "P4: a question was answered that nobody asks"
        [result] = [m for m in self.reader.load_session(sid).messages if m.id not in life.newest.messages]
        self.results.add(result.id)
        asked = {token: question for token, question in life.newest.asked.items() if token not in open_now}
        life.states.append(replace(life.newest, asked=asked, closed=life.newest.closed | set(open_now),
                                   messages={**life.newest.messages, result.id: result.content}))
        self.notice_evictions(r)
        self.publish(r, life, sid)

    # -- the end of things

    @rule(r=repos, sid=ids, anew=st.booleans())
    def delete_now_and_then(self, r: int, sid: str, anew: bool) -> None:
        """Half of the time somebody begins another one under its id."""
        if next(self.numbers) % 3 == 0:
            self.delete(r, sid)
            if anew and sid == IDS[0]:
                self.somebody_begins(r)

    def delete(self, r: int, sid: str) -> None:
        assert self.processes[r].repo.delete(sid) is self.world.delete(r, sid)

    @rule(r=repos, sid=ids)
    def evict(self, r: int, sid: str) -> None:
        entry = self.world.caches.get((r, sid))
        if entry is not None and not entry.mark:
            self.processes[r].repo.cache.invalidate(sid)
            self.notice_evictions(r)

    @rule(r=repos, dies=st.booleans())
    def reopen(self, r: int, dies: bool) -> None:
        """A process ends and starts again: with `close` nothing is lost, killed it loses what it kept unsaved."""
        if not dies:
            self.processes[r].repo.close()
        for sid in IDS:
            entry = self.world.caches.pop((r, sid), None)
            assert dies or entry is None or not entry.mark, "close left something unsaved"
        self.processes[r] = self.open(r)
        self.seen = {key: value for key, value in self.seen.items() if key[0] != r}

    @rule(r=repos, minutes=st.sampled_from([1, 1, 5, -1, -30, 600, -600, 60 * 24 * 3]))
    def the_clock_jumps(self, r: int, minutes: int) -> None:
        self.clocks[r].time += timedelta(minutes=minutes)


def plain(session: Session) -> State:
    """What a session says, in plain Python, through the public face."""
    whole = session.to_dict()
    messages = {message.id: text_of(message) for message in session.messages}
    return State(messages, (tuple(message.id for message in session.messages),), (session.title, session.title_source),
                 session.pinned, session.tags, session.metadata_version, session.title_version, session.model,
                 whole["metadata"],
                 {q.token: (q.tool_call_id, q.question) for q in session.pending_questions},
                 frozenset(whole["closed_questions"]))


def text_of(message: Message) -> str:
    return str(message.content)


# -- what can be done to a session: to the real one and, in plain Python, to the model's -------------------------


def add(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    name = f"m{machine.name()}"
    if n % 3 == 0:
        session.add_message(Message.assistant(name, id=name, tool_calls=[ToolCall(CALLS[n % 2], "ask")]))
    elif n % 3 == 1 and n > 5:
        machine.results.add(name)
        session.add_message(Message.tool_result(CALLS[n % 2], name, id=name))
    else:
        session.add_message(Message.user(name, id=name))
    return with_order(session, replace(state, messages={**state.messages, name: name}))


def with_order(session: Session, state: State) -> State:
    return replace(state, orders=(tuple(message.id for message in session.messages),))


def insert(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    """The whole history handed back, as frameworks do, with one more somewhere in it."""
    name = f"m{machine.name()}"
    at = n % (len(session.messages) + 1)
    wanted = [*session.messages[:at], Message.user(name, id=name), *session.messages[at:]]
    session.messages = wanted
    assert session.messages == wanted
    return with_order(session, replace(state, messages={**state.messages, name: name}))


def replace_message(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    if not session.messages:
        return state
    message = session.messages[n % len(session.messages)]
    text = f"edited {machine.name()}"
    chat = {**message.to_dict(), "content": text}
    session.replace_message(message.id, chat)
    return replace(state, messages={**state.messages, message.id: text})


def remove_message(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    if not session.messages:
        return state
    gone = session.messages[n % len(session.messages)].id
    session.remove_message(gone)
    return with_order(session, replace(state, messages={k: v for k, v in state.messages.items() if k != gone}))


def title(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    source = "user" if n % 2 else "generated"
    new = None if n > 9 else f"{source} {n // 4}"
    taken = session.set_title(new, source=source)
    assert taken is not (source == "generated" and state.title[1] == "user")
    made = NOBODY if new is None else (new, source)
    if not taken or made == state.title:
        return state
    return replace(state, title=made, version=state.version + (source == "user"), titles=state.titles + 1)


def pin(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    session.pinned = not state.pinned
    return replace(state, pinned=not state.pinned, version=state.version + 1)


def tag(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    made = state.tags ^ {TAGS[n % 2]}
    session.tags = made
    return replace(state, tags=made, version=state.version + 1)


def set_metadata(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    """A new value, or, as often, a change inside of the one that is there."""
    key, number = KEYS[n % 2], int(machine.name())
    if key in session.metadata and n > 5:
        session.metadata[key]["deep"].append(number)
        value = {"deep": [*state.metadata[key]["deep"], number]}
    else:
        session.metadata[key] = {"deep": [number]}
        value = {"deep": [number]}
    return replace(state, metadata={**state.metadata, key: value})


def drop_metadata(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    session.metadata.pop(KEYS[n % 2], None)
    return replace(state, metadata={k: v for k, v in state.metadata.items() if k != KEYS[n % 2]})


def set_model(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    session.model = f"model {n}"
    return replace(state, model=f"model {n}")


def ask(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    call, text = CALLS[n % 2], f"question {machine.name()}"
    token = session.set_pending_question(tool_call_id=call, tool_name="ask", question=text).token
    before = [known for known, (asked, _) in state.asked.items() if asked == call]
    assert before in ([], [token]), "asked anew while it was open"
    assert token not in state.closed
    return replace(state, asked={**state.asked, token: (call, text)})


def withdraw(machine: RepositoryMachine, session: Session, state: State, n: int) -> State:
    call = None if n > 8 else CALLS[n % 2]
    gone = {token for token, (asked, _) in state.asked.items() if call in (None, asked)}
    assert session.clear_pending_question(call) is bool(gone)
    return replace(state, asked={k: v for k, v in state.asked.items() if k not in gone}, closed=state.closed | gone)


DEEDS = [add, add, add, insert, replace_message, remove_message, title, pin, tag, set_metadata, set_metadata,
         drop_metadata, set_model, ask, ask, withdraw]

RepositoryMachine.TestCase.settings = settings(
    max_examples=int(ASKED_FOR or 250), derandomize=ASKED_FOR is None, stateful_step_count=40, deadline=None, print_blob=True,
    suppress_health_check=list(HealthCheck))


@pytest.mark.timeout(600)  # a failure is worth the minutes that it takes to be made small
class TestRepositories(RepositoryMachine.TestCase):
    """P2, P3, P4, P5, P6, P9, P10 over whatever several repositories can do to each other."""
