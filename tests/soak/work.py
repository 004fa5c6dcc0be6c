"""What the workers of a soak do: everything that the public face offers, in random order, over many ids.

A worker keeps some old copies and saves them late, as runtimes do. What may happen then (deleted meanwhile, answered by
somebody else, a failing disk) is expected; anything else ends the soak.
"""

from __future__ import annotations

import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bamboo_sessions import Message, QuestionNotOpen, SessionDeleted, SessionNotFound, StorageError
from tests.soak.world import World

LONGEST = 120
"""Messages after which a session is deleted: the soak is about many sessions; long ones have tests of their own."""
_TEXT = "the agent reads a file and then calls a tool because somebody asked for a summary of it " * 40


class Worker:
    """One thread's work on one repository; `done` counts operations by name, `surprises` what was not expected."""

    def __init__(self, world: World, ids: int, seed: int) -> None:
        self.world, self.repo, self.ids = world, world.repo, ids
        self.rng = random.Random(seed)
        self.copies: deque = deque(maxlen=20)
        self.done: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.surprises: list[str] = []
        weights: dict[Callable[[str], object], float] = {
            self.load: 26, self.load_merged: 14, self.turn: 22, self.save_late: 6, self.save_and_cache: 4, self.rename: 3,
            self.tag: 2, self.edit: 5, self.edit_message: 1.5, self.ask: 3, self.answer: 4, self.delete: 3.5, self.touch: 2,
            self.exists: 1, self.usage: 1, self.invalidate: 1, self.time_passes: 0.5, self.clean_up: 0.05,
            self.page: 0.002}
        self._operations, self._weights = list(weights), list(weights.values())

    def run(self, operations: int, stop: threading.Event) -> None:
        for _ in range(operations):
            if stop.is_set():
                return
            self.step()

    def step(self) -> None:
        self.do(self.rng.choices(self._operations, self._weights)[0])

    def do(self, operation: Callable[[str], object]) -> None:
        name, session_id = operation.__name__, self.id()
        try:
            operation(session_id)
        except (SessionNotFound, SessionDeleted, QuestionNotOpen, StorageError) as error:
            self.met[type(error).__name__] += 1
        except Exception as error:
            self.surprises.append(f"{name}({session_id!r}): {type(error).__name__}: {error}")
        self.done[name] += 1

    def id(self) -> str:
        """Half of the work goes to a tenth of the ids, as conversations go."""
        among = self.ids // 10 if self.rng.random() < 0.5 else self.ids
        return f"chat-{self.rng.randrange(max(1, among))}"

    def message(self) -> Message:
        begin = self.rng.randrange(1000)
        return Message.user(_TEXT[begin : begin + self.rng.choice((20, 300, 1000, 2000))])

    # -- operations, each named after what it is ---------------------------------------------------------------------

    def load(self, session_id):
        session = self.repo.load(session_id)
        if session is not None and self.rng.random() < 0.1:
            self.copies.append(session)

    def load_merged(self, session_id):
        self.repo.load_merged(session_id)

    def turn(self, session_id):
        session = self.repo.load_or_create(session_id, model="m")
        if len(session.messages) > LONGEST:
            self.repo.delete(session_id)
            return
        for _ in range(self.rng.choice((1, 1, 1, 2, 5))):
            session.add_message(self.message())
        self.repo.save(session)

    def save_late(self, _):
        if self.copies:
            session = self.copies.popleft()
            session.add_message(self.message())
            session.metadata["late"] = self.rng.randrange(5)
            self.repo.save(session)

    def save_and_cache(self, session_id):
        session = self.repo.load_or_create(session_id, model="m")
        session.add_message(self.message())
        self.repo.save_and_cache(session)

    def rename(self, session_id):
        self.repo.set_title(session_id, f"title {self.rng.randrange(100)}",
                            source=self.rng.choice(("user", "generated")))

    def tag(self, session_id):
        self.repo.add_tags(session_id, f"tag-{self.rng.randrange(5)}")
        self.repo.set_pinned(session_id, self.rng.random() < 0.5)

    def edit(self, session_id):
        with self.repo.edit(session_id) as session:
            session.metadata["step"] = {"number": self.rng.randrange(1000), "of": [1, 2, 3]}
            session.add_message(self.message())

    def edit_message(self, session_id):
        with self.repo.edit(session_id) as session:
            if session.messages:
                one = session.messages[-min(len(session.messages), self.rng.randrange(1, 5))]
                session.replace_message(one.id, self.message())

    def ask(self, session_id):
        with self.repo.edit(session_id) as session:
            session.set_pending_question(tool_call_id=f"call-{self.rng.randrange(10)}", tool_name="ask",
                                         question="Which one?", options=["a", "b"])

    def answer(self, session_id):
        session = self.repo.load(session_id)
        question = session.pending_question if session is not None else None
        if question is not None:
            self.repo.answer(session_id, question.tool_call_id, "a")

    def delete(self, session_id):
        self.repo.delete(session_id)

    def touch(self, session_id):
        self.repo.touch(session_id)

    def exists(self, session_id):
        self.repo.exists(session_id)

    def usage(self, session_id):
        self.repo.append_token_usage_record(session_id, '{"input": 10, "output": 20}')

    def invalidate(self, session_id):
        entry = self.repo.cache.peek_entry(session_id)
        if entry is not None and entry.unsaved is None:
            self.repo.cache.invalidate(session_id)

    def time_passes(self, _):
        self.world.clock.forward(self.rng.choice((0.1, 1, 30)))

    def clean_up(self, _):
        self.repo.cache.cleanup_expired()
        self.repo.flush()

    def page(self, _):
        page = self.repo.list(limit=100)
        while page.next_cursor is not None and self.rng.random() < 0.5:
            page = self.repo.list(limit=100, cursor=page.next_cursor)


@contextmanager
def at_work(world: World, workers: list[Worker], operations: int) -> Iterator[threading.Event]:
    """The workers run in threads during the body; leaving it waits for them. Setting the event ends them early."""
    stop = threading.Event()
    threads = [threading.Thread(target=worker.run, args=(operations // len(workers), stop)) for worker in workers]
    world.files.failing.set()
    for thread in threads:
        thread.start()
    try:
        yield stop
    except BaseException:
        stop.set()
        raise
    finally:
        for thread in threads:
            thread.join()
        world.files.failing.clear()
