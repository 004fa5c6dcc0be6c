"""A naive search, for comparison: conversations whose words are known because they were put together from them.

It shares nothing with the code under test. Each token is given with what it is once folded, by hand; between two tokens there is
always something that parts them.
"""

from __future__ import annotations

from bamboo_sessions import Message, Session

WORDS = {"fox": "fox", "Fox": "fox", "FOX": "fox", "foxes": "foxes", "Zürich": "zurich", "zurich": "zurich", "ZU\u0308RICH": "zurich",
         "Straße": "strasse", "STRASSE": "strasse", "\uff26\uff2f\uff38": "fox", "1234": "1234", "ΣΊΣΥΦΟΣ": "σισυφοσ", "Σίσυφος": "σισυφοσ", "и": "и",
         "and": "and", "OR": "or", "NOT": "not", "NEAR": "near", "null": "null", "the": "the", "кот": "кот", "\u041a\u041e\u0422": "кот",
         "v" * 70: "v" * 70, "v" * 70 + "w": "v" * 70 + "w"}
"""Latin, Greek, Cyrillic, and what looks like a query language."""
RUNS = ["東京都", "京都", "東京", "都", "東京に住む", "서울에서", "서울", "สวัสดี", "京 都"]
"""Scripts without spaces; the last one is two."""
BETWEEN = [" ", ", ", "\n", "-", "_", "'", '"', "\0", "\ud800", "*", "^", ":", "(", ") ", " AND ", "\\", "%", " & ", "$json ", "\u3000", "\x1b[1m "]
ROLES = ("user", "assistant", "tool", "system", "developer")


class Text:
    """A text and what is in it."""

    def __init__(self, dice, longest=8):
        self.text, self.words, self.runs = "", set(), []
        for _ in range(dice.randrange(longest)):
            token = dice.choice([*WORDS, *WORDS, *RUNS])
            between = dice.choice(BETWEEN)
            self.text += token + between
            if token in WORDS:
                self.words.add(WORDS[token])
            else:
                self.runs += token.split()
            self.words |= {word.lower() for word in between.split() if word.isalpha()} | ({"json"} if "json" in between else set()) | (
                {"1m"} if "1m" in between else set())

    def has(self, words, runs, prefix=None):
        return (words <= self.words and all(any(run in there for there in self.runs) for run in runs)
                and (prefix is None or any(word.startswith(prefix) for word in self.words)))


class Asked:
    """A query, and which texts it finds."""

    def __init__(self, dice):
        tokens = [dice.choice([*WORDS, *WORDS, *RUNS]) for _ in range(dice.choice([1, 1, 1, 2, 2, 3]))]
        self.prefix = dice.random() < 0.2 and tokens[-1] in WORDS
        self.words = {WORDS[token] for token in tokens if token in WORDS}
        self.runs = [run for token in tokens if token not in WORDS for run in token.split()]
        self.begins = None
        if self.prefix:
            self.begins = WORDS[tokens[-1]][: dice.randrange(1, 4)]
            self.words = {WORDS[token] for token in tokens[:-1] if token in WORDS}
            tokens[-1] = self.begins
        self.text = dice.choice([" ", ", ", " ! "]).join(tokens)

    def finds(self, text):
        return text.has(self.words, self.runs, self.begins)


class Chat:
    """A session as the model keeps it."""

    def __init__(self, session_id):
        self.id, self.title, self.messages, self.tags = session_id, None, [], frozenset()

    def places(self, asked):
        """(id, place) of what is found, the title as None."""
        if self.title is not None and asked.finds(self.title):
            yield self.id, None
        for at, (role, text) in enumerate(self.messages):
            if role not in ("system", "developer") and asked.finds(text):
                yield self.id, at


class Chats:
    """What a repository holds after random work, in the order in which it was last touched."""

    def __init__(self, repo, dice):
        self.repo, self.dice, self.there = repo, dice, {}

    def step(self):
        dice, name = self.dice, f"s{self.dice.randrange(8)}"
        chat = self.there.get(name)
        if chat is None:
            self.make(name)
        else:
            dice.choice([self.append, self.append, self.append, self.retitle, self.edit, self.remove, self.delete, self.tag])(chat)

    def touched(self, chat):
        self.there.pop(chat.id, None)
        self.there[chat.id] = chat

    def make(self, name):
        chat, session = Chat(name), Session.new(name)
        self.say(chat, session, self.dice.randrange(4))
        if self.dice.random() < 0.5:
            chat.title = titled(self.dice)
            session.title = chat.title.text
        self.repo.save(session)
        self.touched(chat)

    def say(self, chat, session, count):
        for _ in range(count):
            role, text = self.dice.choice(ROLES), Text(self.dice)
            parts = self.dice.random() < 0.3
            content = [{"type": "text", "text": text.text}, {"type": "image_url", "image_url": {"url": "fox"}}] if parts else text.text
            session.add_message(Message(role, content, **({"tool_call_id": "fox"} if role == "tool" else {})))
            chat.messages.append((role, text))

    def append(self, chat):
        self.repo.update(chat.id, lambda session: self.say(chat, session, 1))
        self.touched(chat)

    def retitle(self, chat):
        chat.title = titled(self.dice) if self.dice.random() < 0.8 else None
        before = self.repo.try_load(chat.id).title
        self.repo.set_title(chat.id, None if chat.title is None else chat.title.text)
        if before != (None if chat.title is None else chat.title.text):
            self.touched(chat)

    def tag(self, chat):
        tags = frozenset(self.dice.sample(["red", "wörk", "a b", "fox"], self.dice.randrange(3)))
        self.repo.set_tags(chat.id, tags)
        if tags != chat.tags:
            self.touched(chat)
        chat.tags = tags

    def edit(self, chat):
        if not chat.messages:
            return
        at, text = self.dice.randrange(len(chat.messages)), Text(self.dice)
        text.text += "\u200b"  # never what was there, and no part of a word
        text.text += str(self.dice.random()).replace("0.", "")[:9]
        text.words.add(text.text.rpartition("\u200b")[2])
        self.repo.update(chat.id, lambda session: session.replace_message(session.messages[at].id, Message("user", text.text)))
        chat.messages[at] = "user", text
        self.touched(chat)

    def remove(self, chat):
        if not chat.messages:
            return
        at = self.dice.randrange(len(chat.messages))
        self.repo.update(chat.id, lambda session: session.remove_message(session.messages[at].id))
        del chat.messages[at]
        self.touched(chat)

    def delete(self, chat):
        self.repo.delete(chat.id)
        del self.there[chat.id]

    def expected(self, asked, tag=None):
        """Every place, the newest sessions first."""
        return [place for chat in reversed(self.there.values()) if tag is None or tag in chat.tags for place in chat.places(asked)]


def titled(dice):
    """Titles refuse lone surrogates."""
    while True:
        text = Text(dice)
        if "\ud800" not in text.text:
            return text
