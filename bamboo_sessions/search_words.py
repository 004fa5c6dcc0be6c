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
from itertools import accumulate
from typing import Final

SEARCHED: Final = 100_000
"""Characters of one text that are looked at: a term costs room in an index, and PostgreSQL has no more than a megabyte for one
text's."""
LONGEST: Final = 64
"""Characters of a term; longer words are told apart by a second look."""
_ROOM: Final = 1_000_000
"""Bytes of one text's terms, which is more than any text has: the signs of rare scripts make nine a character, ligatures no more."""
_MARKS: Final = 32
"""Marks of one letter. To put them in order takes a time that grows with the square of their number; no language has so many."""
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
    both = _run_or_word().findall(text)
    for word in {word for _, word in both}:
        yield from (part[:LONGEST] for part in _parts_of(word))
    for run, _ in both:
        signs = _one_sign().findall(run)
        sign = _sign if len(signs) == len(run) else _sign_of
        plain = "".join(map(sign, signs))
        yield from of_run(plain) if plain else ()


def of_run(run: str) -> Iterator[str]:
    """Each two neighbours; and the last sign alone, so that every sign is the beginning of a term."""
    yield from map(str.__add__, run, run[1:])
    yield run[-1]


def folded(text: str) -> str:
    """Without case, accents and width."""
    if text.isascii():
        return text.lower()
    few = text if len(text) <= _MARKS else _heap().sub(lambda heap: _ACCENTS.sub("", heap[0])[:_MARKS], text)
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", few).casefold())
    return unicodedata.normalize("NFKC", plain)


def _fitting(found: Iterable[str]) -> set[str]:
    made = set(found)
    if 4 * sum(map(len, made)) + len(made) <= _ROOM:  # no character has more bytes
        return made
    ordered = sorted(made)  # if any had to be left out, the same ones by everybody
    ends = accumulate(len(term.encode()) + 1 for term in ordered)
    return {term for term, end in zip(ordered, ends, strict=True) if end <= _ROOM}


def pieces(text: str) -> Iterator[Piece]:
    """The words of a text, and the signs of its runs, in order."""
    if text.isascii():
        for match in _ASCII_PIECE.finditer(text):
            yield match.start(), match.end(), (match[0].lower(),), False
        return
    for match in _piece().finditer(text):
        is_sign = match.lastgroup == "sign"
        parts = (_sign_of(match[0]),) if is_sign else _parts_of(match[0])
        if any(parts):
            yield match.start(), match.end(), parts, is_sign


def _parts_of(word: str) -> tuple[str, ...]:
    """A word once folded. Rarely more than one: there are characters that stand for several words."""
    return (_parts if len(word) <= LONGEST else _parts.__wrapped__)(word)


def _sign_of(sign: str) -> str:
    """A sign once folded, which may then begin with what belongs to the one before."""
    return (_sign if len(sign) <= LONGEST else _sign.__wrapped__)(sign)


# Remembered is what is short: others would be kept for as long as the process lives, and hardly come twice.


@lru_cache(maxsize=4096)
def _parts(word: str) -> tuple[str, ...]:
    return tuple(_letters().findall(folded(word)))


@lru_cache(maxsize=4096)
def _sign(sign: str) -> str:
    return "".join(_kept().findall(folded(sign)))


@cache
def _marks() -> str:
    """What belongs to the letter before it, for a character class: Python's `\\w` leaves it out. Made when it is first needed."""
    marks = [code for code in (*range(0x300, 0x1ECFF), *range(0xE0100, 0xE01F0)) if unicodedata.category(chr(code))[0] == "M"]
    return _ranges(marks) + "\u00ad\u200c\u200d\uff9e\uff9f\u1160-\u11ff"  # the last ones: the ends of a Korean syllable


def _ranges(codes: list[int]) -> str:
    """As short as can be: beyond the first plane, a pattern compares a character with one part of its class after the other."""
    begins = [code for before, code in zip([0, *codes], codes, strict=False) if code != before + 1]
    ends = [code for code, after in zip(codes, [*codes[1:], 0], strict=True) if after != code + 1]
    return "".join(f"{chr(begin)}-{chr(end)}" for begin, end in zip(begins, ends, strict=True))


@cache
def _piece() -> re.Pattern[str]:
    return re.compile(f"(?P<sign>[{_RUNS}][{_marks()}]*+)|(?:[^\\W_{_RUNS}]++[{_marks()}]*+)++")


@cache
def _run_or_word() -> re.Pattern[str]:
    """The same as `_piece`, a run at once. Among what belongs to its signs are letters, the ends of Korean syllables: who looked for
    words alone would take those for the beginning of one."""
    return re.compile(f"([{_RUNS}][{_RUNS}{_marks()}]*+)|((?:[^\\W_{_RUNS}]++[{_marks()}]*+)++)")


@cache
def _one_sign() -> re.Pattern[str]:
    return re.compile(f"[{_RUNS}][{_marks()}]*+")


@cache
def _heap() -> re.Pattern[str]:
    return re.compile(f"[{_marks()}]{{{_MARKS + 1},}}+")


@cache
def _kept() -> re.Pattern[str]:
    return re.compile(f"[^\\W_]|[{_marks()}]")


@cache
def _letters() -> re.Pattern[str]:
    return re.compile(f"(?:[^\\W_]++[{_marks()}]*+)++")
