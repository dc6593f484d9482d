"""What is wrong with a configuration: problems with their place, all at once, and the sentence for a person.

Nothing is quoted here as it stands: whatever is shown passes the redactor first, because the commonest mistake in a
configuration is a key pasted into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from palyra.errors import ConfigInvalid
from palyra.limits import CONFIG_PROBLEMS_SHOWN_COUNT
from palyra.redaction import redact_text

#: program: given by the program that embeds a gateway.
SourceKind = Literal["default", "file", "program", "env", "flag", "derived"]
#: A place in a TOML tree: names of tables and keys, indexes of arrays.
Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ORDER = {"file": 0, "program": 0, "env": 1, "flag": 2, "derived": 3, "default": 4}
#: Suggestions for longer names than this are not worth their time.
_SUGGEST_MAX_CHARS = 64


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a value comes from."""

    kind: SourceKind
    file: str = ""
    #: From 1; 0 = not known. The place is that of the key, in an array that of the element.
    line: int = 0
    column: int = 0
    #: The variable, the flag, or the key that this one is derived from.
    name: str = ""

    def __str__(self) -> str:
        """Return the origin as `palyra config show --origin` prints it: `file:PATH:LINE`, `env:NAME`, `default`."""
        if self.kind == "file":
            return f"file:{self.file}:{self.line}"
        return f"{self.kind}:{self.name}" if self.name else self.kind

    @property
    def place(self) -> str:
        """The beginning of a problem's line: `palyra.toml:42:14`, or the variable or flag."""
        if self.kind == "file":
            return f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return self.name


DEFAULT = Source(kind="default")


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong, or (severity warning) probably not meant."""

    code: str
    severity: Literal["error", "warning"] = "error"
    #: `model_provider.models[3].provider_id`; "" = the file as a whole.
    key: str
    message: str
    source: Source
    #: The way out, as a clause: `did you mean "port"?`, `run: chmod go-w palyra.toml`.
    suggestion: str = ""

    def __str__(self) -> str:
        """Return the line for a person: `palyra.toml:4:1 daemon.prt: unknown key; did you ... [unknown_key]`."""
        where = f"{self.source.place} {self.key}".strip()
        hint = f"; {self.suggestion}" if self.suggestion else ""
        return f"{where}: {self.message}{hint} [{self.code}]"


class ConfigProblems(ConfigInvalid):
    """The configuration has problems; nothing was started."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        errors = [problem for problem in problems if problem.severity == "error"]
        newer = any(problem.code == "unsupported_version" for problem in errors)
        super().__init__("\n".join(shown(errors)), code="unsupported_version" if newer else None)
        #: Errors and warnings, in the order of the file.
        self.problems = tuple(problems)


class Findings:
    """Collects problems while a configuration is read."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def error(self, code: str, key: str, message: str, source: Source, suggestion: str = "") -> None:
        self._add("error", code, key, message, source, suggestion)

    def warning(self, code: str, key: str, message: str, source: Source, suggestion: str = "") -> None:
        self._add("warning", code, key, message, source, suggestion)

    def _add(
        self,
        severity: Literal["error", "warning"],
        code: str,
        key: str,
        message: str,
        source: Source,
        suggestion: str,
    ) -> None:
        self._problems.append(
            Problem(
                code=code,
                severity=severity,
                key=redact_text(key),
                message=redact_text(message),
                source=source,
                suggestion=redact_text(suggestion),
            )
        )

    @property
    def has_errors(self) -> bool:
        return any(problem.severity == "error" for problem in self._problems)

    def sorted(self) -> tuple[Problem, ...]:
        """Return the problems by place: files in the order of their lines, then variables, then flags."""
        return tuple(sorted(self._problems, key=_sort_key))


def _sort_key(problem: Problem) -> tuple[int, str, int, int, str, str]:
    source = problem.source
    return (_ORDER[source.kind], source.file, source.line, source.column, problem.key, problem.code)


def shown(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield the lines that are shown: the first hundred, and a count of the rest."""
    for problem in problems[:CONFIG_PROBLEMS_SHOWN_COUNT]:
        yield str(problem)
    rest = len(problems) - CONFIG_PROBLEMS_SHOWN_COUNT
    if rest > 0:
        yield f"... and {rest} more"


def key_text(path: Path, prefix: str = "") -> str:
    """Return a path as keys are written, below one that is written already: `model_provider.models[0].aliases`."""
    text = prefix
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{name}" if text else name
    return text


def quoted(text: str) -> str:
    """Return a name of the user's as it may stand in a message: quoted, cut, without secrets."""
    return json.dumps(redact_text(text[:_SUGGEST_MAX_CHARS]), ensure_ascii=False)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that `name` was probably meant to be: two slips at most, one in a short name."""
    if len(name) > _SUGGEST_MAX_CHARS:
        return None
    bound = 1 if len(name) <= 4 else 2
    ranked = [(distance, other) for other in candidates if (distance := _slips(name, other, bound)) <= bound]
    return min(ranked)[1] if ranked else None


def _slips(a: str, b: str, bound: int) -> int:
    """Return the edit distance with transpositions (optimal string alignment), or more than `bound`."""
    if abs(len(a) - len(b)) > bound:
        return bound + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != other))
            if i > 1 and j > 1 and char == b[j - 2] and other == a[i - 2]:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]
