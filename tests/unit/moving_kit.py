"""What the tests of copying share: a session, something that is said in it, and what a report names."""

from __future__ import annotations

from bamboo_sessions import Message, Session
from tests.support import bundle


def said(storage, clock, text, name="s"):
    bundle(storage, clock).update(name, lambda session: session.add_message(Message.user(text)))


def begun(storage, clock, *names):
    repo = bundle(storage, clock)
    for name in names or ("s",):
        repo.save(Session.new(name, clock=clock))
    return repo


def texts(storage, name="s"):
    session = storage.load_session(name)
    return None if session is None else [message.content for message in session.messages]


def named(report):
    return [problem.session_id for problem in report.problems]
