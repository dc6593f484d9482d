"""Patterns of an operator for what is to be hidden: whether one may run on every line that is shown.

The engine that runs them goes back on its steps. So a pattern may only offer a bounded number of ways to match at
one place; then the time is linear in the text. The rule can be told in a sentence, and refuses more than it must.
"""

from __future__ import annotations

import re

PATTERN_MAX_CHARS = 200
_REPEAT_MAX_COUNT = 256
#: In how many ways a pattern may try to match at one place: ranges of its repeats and its alternatives, multiplied.
_WAYS_MAX_COUNT = 4_096

_TOKEN = re.compile(
    r"""
    \\(?P<escaped>.)
    | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
    | \{(?P<least>[0-9]{1,4})(?:,(?P<most>[0-9]{1,4}))?\}
    | (?P<group>\((?:\?:|\?i:|(?!\?)))
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)

#: What a later Python may read as an operation on sets.
_SET_OPERATION = re.compile(r"\[|--|&&|~~|\|\|")

PATTERN_RULE = (
    f"must be a regular expression of 1 to {PATTERN_MAX_CHARS} characters that takes linear time: repeats only"
    f" as ?, {{n}} or {{n,m}} up to {_REPEAT_MAX_COUNT}, none of a group or of another repeat, no * + or {{n,}},"
    " no backreference, groups only as (..), (?:..) and (?i:..),"
    f" and at most {_WAYS_MAX_COUNT:,} ways to match at one place"
)


def is_linear(pattern: str) -> bool:
    """Return whether a pattern is a regular expression that takes linear time by the rule above."""
    if not 1 <= len(pattern) <= PATTERN_MAX_CHARS:
        return False
    ways_count = _ways(pattern)
    if ways_count is None or ways_count > _WAYS_MAX_COUNT:
        return False
    try:
        # In a group of its own, as it is run: one that would close that group is none.
        re.compile(f"(?:{pattern})")
        return re.compile(pattern).search("") is None
    except (re.error, OverflowError):
        return False


def _ways(pattern: str) -> int | None:
    """Return in how many ways a pattern may try to match at one place; None where it uses what it may not."""
    ways_count = 1
    #: Of each group that is open, the outermost first: how many alternatives it has.
    branches = [1]
    may_repeat = False
    for token in _TOKEN.finditer(pattern):
        other, escaped, least = token["other"], token["escaped"], token["least"]
        if least is not None or other == "?":
            low, high = (0, 1) if least is None else (int(least), int(token["most"] or least))
            if not may_repeat or not low <= high <= _REPEAT_MAX_COUNT:
                return None
            ways_count *= high - low + 1
            may_repeat = False
        elif token["group"] is not None:
            branches.append(1)
            may_repeat = False
        elif other == "|":
            branches[-1] += 1
            may_repeat = False
        elif other == ")":
            ways_count *= branches.pop()
            may_repeat = False
            if not branches:
                return None
        elif any(
            (
                other is not None and other in "*+{([",
                escaped is not None and escaped in "0123456789",
                token["set"] is not None and _SET_OPERATION.search(token["set"], 1),
            )
        ):
            return None
        else:
            may_repeat = True
    return ways_count * branches[0]
