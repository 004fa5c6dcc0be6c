"""bamboo_sessions on JSON files, as in its README: one repository and one copy of the session for the life of a process."""

from __future__ import annotations

from bamboo_sessions import Message, SessionRepository


class Store:
    package = "bamboo-sessions"
    settings = "`SessionRepository.open(folder)`; the copy is held, each append is a `save` of it"

    def __init__(self, folder: str) -> None:
        self._repo = SessionRepository.open(folder)
        self._session = self._repo.load_or_create("chat")

    def append(self, text: str) -> None:
        self._session.add_message(Message.user(text))
        self._repo.save(self._session)

    def texts(self) -> list[str]:
        return [str(message.content) for message in self._repo.load("chat").messages]

    def rename(self, title: str) -> None:
        self._repo.set_title("chat", title)

    def title(self) -> str:
        return self._repo.load("chat").title or ""
