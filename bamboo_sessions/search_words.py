"""What a word is. Pure, and the same for every storage, so that all of them find the same.

Databases have ideas of their own of what a word is (PostgreSQL takes `example.com/a` for one, SQLite finds none in a Japanese
sentence). So texts are taken apart here, and an index is given *terms*: letters and digits only, folded, each once. What a
user asks for is taken apart in the same way; nothing that he writes reaches a query language.

A word is a run of letters and digits, without regard to case and accents. Where a script puts no spaces between words
(Chinese, Japanese, Thai, …), and in Korean, which glues endings to them, a word is found anywhere within a run: there the
terms are each two neighbours, and what they find is looked at again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import Final

SEARCHED: Final = 100_000
"""Characters of one text that are looked at: a term costs room in an index, and PostgreSQL has no more than a megabyte for one
text's."""
LONGEST: Final = 64
"""Characters of a term; longer words are told apart by a second look."""
_ROOM: Final = 500_000
"""Bytes of one text's terms, whatever it is made of."""
_RUNS: Final = ("\u3005-\u3007\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
                "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"  # Chinese, Japanese
                "\u0e01-\u0e30\u0e32-\u0e33\u0e40-\u0e46\u0e50-\u0e59\u0e81-\u0eb0\u0eb2-\u0eb3\u0ebd-\u0ec6\u0ed0-\u0edf"  # Thai, Lao
                "\u1000-\u102a\u103f-\u1049\u1780-\u17b3\u17e0-\u17e9"  # Burmese, Khmer
                "\u1100-\u115f\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\uffa0-\uffdc")  # Korean
_ASCII_WORDS: Final = bytes(code if code > 127 else ord(chr(code).lower()) if chr(code).isalnum() else ord(" ") for code in range(256))
_ASCII_PIECE: Final = re.compile("[A-Za-z0-9]+")
_ACCENTS: Final = re.compile("[\u0300-\u036f\u00ad\u200c\u200d]+")  # of Latin, Greek, Cyrillic; and what nobody sees

Piece = tuple[int, int, tuple[str, ...], bool]
"""Where it begins and ends, what it is once folded (most often one word), and whether it is one sign of a run."""


def terms(text: str) -> set[str]:
    """What an index keeps of a text."""
    # ASCII that is no letter or digit is part of nothing. To split there first is a fifth of what patterns cost every save.
    spaced = text[:SEARCHED].encode("utf-8", "surrogatepass").translate(_ASCII_WORDS)
    found = set(spaced.decode("utf-8", "surrogatepass").split())
    others = [] if spaced.isascii() else [part for part in found if not part.isascii()]
    if not others and len(max(found, key=len, default="")) <= LONGEST:
        return found
    return _fitting([*(word[:LONGEST] for word in found.difference(others)), *_by_patterns(" ".join(others))])


def _by_patterns(text: str) -> Iterator[str]:
    for word in set(_word().findall(text)):
        yield from (part[:LONGEST] for part in _parts(word))
    runs = ("".join(map(_sign, _one_sign().findall(run))) for run in _run().findall(text))
    for run in runs:
        yield from of_run(run) if run else ()


def of_run(run: str) -> Iterator[str]:
    """Each two neighbours; and the last sign alone, so that every sign is the beginning of a term."""
    yield from map(str.__add__, run, run[1:])
    yield run[-1]


def folded(text: str) -> str:
    """Without case, accents and width."""
    if text.isascii():
        return text.lower()
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFKC", plain)


def _fitting(found: Iterable[str]) -> set[str]:
    made: set[str] = set()
    room = _ROOM
    for term in found:
        if term not in made:
            room -= len(term.encode()) + 1
            if room < 0:
                break
            made.add(term)
    return made


def pieces(text: str) -> Iterator[Piece]:
    """The words of a text, and the signs of its runs, in order."""
    if text.isascii():
        for match in _ASCII_PIECE.finditer(text):
            yield match.start(), match.end(), (match[0].lower(),), False
        return
    for match in _piece().finditer(text):
        is_sign = match.lastgroup == "sign"
        parts = (_sign(match[0]),) if is_sign else _parts(match[0])
        if any(parts):
            yield match.start(), match.end(), parts, is_sign


@lru_cache(maxsize=4096)
def _parts(word: str) -> tuple[str, ...]:
    """A word once folded. Rarely more than one: there are characters that stand for several words."""
    return tuple(_letters().findall(folded(word)))


@lru_cache(maxsize=4096)
def _sign(sign: str) -> str:
    """A sign once folded, which may then begin with what belongs to the one before."""
    return "".join(_kept().findall(folded(sign)))


@cache
def _marks() -> str:
    """What belongs to the letter before it, for a character class: Python's `\\w` leaves it out. Made when it is first needed."""
    marks = [chr(code) for code in (*range(0x300, 0x1ECFF), *range(0xE0100, 0xE01F0)) if unicodedata.category(chr(code))[0] == "M"]
    return "".join(marks) + "\u00ad\u200c\u200d\uff9e\uff9f\u1160-\u11ff"  # the last ones: the ends of a Korean syllable


@cache
def _piece() -> re.Pattern[str]:
    return re.compile(f"(?P<sign>[{_RUNS}][{_marks()}]*+)|(?:[^\\W_{_RUNS}]++[{_marks()}]*+)++")


@cache
def _word() -> re.Pattern[str]:
    return re.compile(f"(?:[^\\W_{_RUNS}]++[{_marks()}]*+)++")


@cache
def _run() -> re.Pattern[str]:
    return re.compile(f"[{_RUNS}][{_RUNS}{_marks()}]*+")


@cache
def _one_sign() -> re.Pattern[str]:
    return re.compile(f"[{_RUNS}][{_marks()}]*+")


@cache
def _kept() -> re.Pattern[str]:
    return re.compile(f"[^\\W_]|[{_marks()}]")


@cache
def _letters() -> re.Pattern[str]:
    return re.compile(f"(?:[^\\W_]++[{_marks()}]*+)++")
