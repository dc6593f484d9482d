"""`chars-v1`: how many tokens a text has, without a tokenizer (gateway specification 5.1).

Integers only, the same on every machine, and appending text never lowers the result. The counts are taken by passes
of `bytes.translate` and `bytes.count`, never by a loop over its characters; a long text is counted piece by piece,
because no other thread has a turn while one of these passes is under way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

from palyra.units import ceil_div

ESTIMATOR = "chars-v1"
#: What stands around a text of which a request is made: one message, and the beginning of the answer.
AROUND_TOKENS = 7

_LETTERS = bytes(byte for byte in range(128) if chr(byte).isalpha())
_DIGITS = b"0123456789"
_PUNCTUATION = bytes(byte for byte in range(33, 127) if not chr(byte).isalnum())
_SPACE = b" \t\n\r\v\f"
#: White space becomes a space, all else an x: a word starts wherever " x" stands.
_WORDS = bytes(0x20 if byte in _SPACE else 0x78 for byte in range(256))
#: The alphabet of base64 (and so of hex) becomes an x, all else a space.
_CODED = bytes(0x78 if byte in _LETTERS + _DIGITS + b"+/" else 0x20 for byte in range(256))
_CODED_RUN_CHARS = 40
_CODED_RUN = b"x" * _CODED_RUN_CHARS
#: Of a text that is counted without a pause: a few milliseconds.
_PIECE_CHARS = 64 * 1024

#: First character of each range beyond ASCII, and the milli-tokens of a character from there on.
_RANGES = [
    (0x80, 1000),
    (0xC0, 450),
    (0x250, 2000),
    (0x370, 300),
    (0x530, 2000),
    (0x590, 500),
    (0xF00, 2000),
    (0x2000, 1000),
    (0x2070, 2000),
    (0x2E80, 1000),
    (0xA000, 2000),
    (0xAC00, 1000),
    (0xD800, 2000),
    (0xF900, 1000),
    (0xFB00, 2000),
    (0xFF00, 1000),
    (0xFFF0, 2000),
    (0x20000, 1000),
    (0x40000, 2000),
]
_RANGE_STARTS = [start for start, _ in _RANGES]


def estimate_token_count(text: str) -> int:
    """Return the estimated number of tokens of `text`; 0 for an empty one."""
    if len(text) <= _PIECE_CHARS:
        letters, words, millitokens, _ = _count(text, b" ", 0)
    else:
        letters, words, millitokens = _count_long(text)
    millitokens += 1000 * words + 150 * max(0, letters - 3 * words)
    return ceil_div(millitokens, 1000)


def _count_long(text: str) -> tuple[int, int, int]:
    """Return what `_count` does of a long text; how it is cut does not change the counts."""
    letters = words = millitokens = run_chars = 0
    before = b" "
    for start in range(0, len(text), _PIECE_CHARS):
        piece = text[start : start + _PIECE_CHARS]
        more_letters, more_words, more_millitokens, run_chars = _count(piece, before, run_chars)
        letters, words, millitokens = letters + more_letters, words + more_words, millitokens + more_millitokens
        before = piece[-1:].encode("ascii", "replace")
    return letters, words, millitokens


def _count(text: str, before: bytes, run_chars: int) -> tuple[int, int, int, int]:
    """Return letters, words, and the milli-tokens of all else; and how many coded characters end the piece.

    `before` is the character in front of it, `run_chars` how many coded ones stand there, 40 at most.
    """
    foreign_count, foreign_millitokens = (0, 0) if text.isascii() else _beyond_ascii(text)
    ascii_text = text.encode("ascii", "replace")  # one "?" for each character beyond ASCII, taken off below
    without_letters = ascii_text.translate(None, _LETTERS)
    without_digits = without_letters.translate(None, _DIGITS)
    digit_count = len(without_letters) - len(without_digits)
    punctuation_count = len(without_digits) - len(without_digits.translate(None, _PUNCTUATION)) - foreign_count
    coded_count, run_chars = _coded(ascii_text, run_chars)
    millitokens = (
        400 * digit_count
        + 550 * punctuation_count
        + 350 * without_digits.count(b"\n")
        + 300 * coded_count
        + foreign_millitokens
    )
    words = (before + ascii_text).translate(_WORDS).count(b" x")
    return len(ascii_text) - len(without_letters), words, millitokens, run_chars


def _coded(ascii_text: bytes, run_chars: int) -> tuple[int, int]:
    """Return how many more characters stand in runs of 40 and more of base64, and the run at the end."""
    runs = b"x" * run_chars + ascii_text.translate(_CODED) + b" "
    # A run that is long enough already was counted with the piece before.
    count = -run_chars if run_chars == _CODED_RUN_CHARS else 0
    start = runs.find(_CODED_RUN)
    while start >= 0:
        end = runs.find(b" ", start)
        count += end - start
        start = runs.find(_CODED_RUN, end)
    return count, min(_CODED_RUN_CHARS, len(runs) - 2 - runs.rfind(b" ", 0, -1))


def _beyond_ascii(text: str) -> tuple[int, int]:
    """Return how many characters lie beyond ASCII, and their milli-tokens."""
    count = millitokens = 0
    for char, occurrences in Counter(text).items():
        if char >= "\x80":
            count += occurrences
            millitokens += occurrences * _RANGES[bisect_right(_RANGE_STARTS, ord(char)) - 1][1]
    return count, millitokens


class TokenTally:
    """Counts the tokens of a text that arrives in small pieces, at the price of a few calls a kilobyte.

    Pieces wait until they are worth a count, then they are forgotten; a word that lies across two counts is counted
    twice, so the sum is at most 1 or 2 % above that of the whole text.
    """

    __slots__ = ("_counted_tokens", "_pieces", "_waiting_chars")

    #: Also how far the count may lag behind, in characters.
    _COUNT_AT_CHARS = 512

    def __init__(self) -> None:
        self._counted_tokens = 0
        self._pieces: list[str] = []
        self._waiting_chars = 0

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._waiting_chars += len(text)
        if self._waiting_chars >= self._COUNT_AT_CHARS:
            self._count()

    def extend(self, texts: list[str]) -> None:
        """Add pieces one after the other."""
        chars_count = sum(map(len, texts))
        if self._waiting_chars + chars_count < self._COUNT_AT_CHARS:
            self._pieces += texts
            self._waiting_chars += chars_count
        else:
            for text in texts:
                self.add(text)

    @property
    def tokens(self) -> int:
        """The tokens of everything added so far."""
        self._count()
        return self._counted_tokens

    @property
    def counted_tokens(self) -> int:
        """The tokens without the pieces that still wait: never above `tokens`, and free to ask."""
        return self._counted_tokens

    def _count(self) -> None:
        self._counted_tokens += estimate_token_count("".join(self._pieces))
        self._pieces.clear()
        self._waiting_chars = 0
