"""The frame of every answer: for people a page with its origin at the foot, for programs one JSON document.

Errors have one form as well: sentence, next step, code and exit status, all from the error's class and code; the
text of a message is never searched for words.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from palyra.cli.page import Page, Styled
from palyra.cli.render import clean, clock, count, instant
from palyra.errors import CODES, PalyraError, Refused, reason_of
from palyra.redaction import redact_text
from palyra.units import usd_of

SCHEMA = "palyra.cli/1"

_HINTS = {
    "config_invalid": "palyra config keys lists every key, what it takes and what it means",
    "unsupported_version": "install the release that wrote the file",
    "journal_damaged": "palyra journal verify shows what is damaged",
    "internal": "run it again with --verbose and report what it prints",
    "insecure_permissions": "only its owner may read the state directory",
}


class At(msgspec.Struct, frozen=True, kw_only=True):
    """Of which journal, position and instant an answer is true."""

    journal_id: str
    position: int
    as_of_us: int
    source: str


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something that did not keep the answer from being given."""

    code: str
    message: str


class Answer(NamedTuple):
    """What a command found: data for programs, and how it is shown to people."""

    #: A Struct or plain data; None for a command that prints text of its own.
    data: Any
    show: Callable[[Page], None]
    at: At | None = None
    #: The line under `at` for people: who answered.
    origin: str = ""
    warnings: Sequence[Notice] = ()
    #: A report with findings: it is printed whole, then this decides the exit status.
    failure: PalyraError | None = None
    #: It is about a moment that was asked for, and not about now.
    is_past: bool = False


def print_answer(answer: Answer, page: Page, *, command: str, as_json: bool) -> int:
    """Print an answer; returns the exit status."""
    failure = answer.failure
    if as_json:
        print_document(command, answer.data, at=answer.at, warnings=answer.warnings, error=failure)
    else:
        for notice in answer.warnings:
            _print_labelled("warning", notice.message, "warn")
        answer.show(page)
        if answer.at is not None:
            page.line()
            page.line(Styled(_foot(answer.at, answer.origin, page, is_past=answer.is_past), "dim"))
        if failure is not None:
            page.stream.flush()
            print_error(failure)
    return 0 if failure is None else failure.exit_code


def _foot(at: At, origin: str, page: Page, *, is_past: bool) -> str:
    if is_past:
        return f"as of position {count(at.position)} · {instant(at.as_of_us, page.zone)} · {origin}"
    return f"position {count(at.position)} · {clock(at.as_of_us, page.zone)} · {origin}"


def print_document(
    command: str,
    data: Any,
    *,
    at: At | None = None,
    warnings: Sequence[Notice] = (),
    error: PalyraError | None = None,
) -> None:
    """Print the one JSON document of a command: keys sorted, pure ASCII, so that nothing in it can be obeyed."""
    document = {
        "schema": SCHEMA,
        "command": command,
        "ok": error is None,
        "at": at,
        "data": data,
        "warnings": list(warnings),
        "error": None if error is None else error_object(error),
    }
    sys.stdout.write(to_json(_with_usd(to_plain(document)), indent=2) + "\n")


def print_line_object(value: Any) -> None:
    """Print one JSON object on a line of its own, for commands that go on printing."""
    sys.stdout.write(to_json(_with_usd(to_plain(value))) + "\n")
    sys.stdout.flush()


def _with_usd(plain: Any) -> Any:
    """Return plain data that has each amount in nano-USD, which programs add up, in USD too, which people read."""
    if isinstance(plain, list):
        return [_with_usd(one) for one in plain]
    if not isinstance(plain, dict):
        return plain
    found = {name: _with_usd(value) for name, value in plain.items()}
    for name, amount in plain.items():
        if name.endswith("_nanousd") and (amount is None or isinstance(amount, int)):
            found.setdefault(name.removesuffix("nanousd") + "usd", None if amount is None else usd_of(amount))
    return found


def to_json(value: Any, indent: int | None = None) -> str:
    """Return Structs and plain data as JSON text."""
    return json.dumps(to_plain(value), sort_keys=True, indent=indent)


def to_plain(value: Any) -> Any:
    """Return Structs as plain data."""
    return msgspec.to_builtins(value)


def error_object(error: PalyraError) -> dict[str, Any]:
    """Return an error as programs get it."""
    found: dict[str, Any] = {
        "code": error.code,
        "message": redact_text(str(error)),
        "hint": hint_of(error),
        "exit": error.exit_code,
    }
    if isinstance(error, Refused):
        refusal = error.refusal
        more = {"field": refusal.param, "retry_after_ms": refusal.retry_after_ms, "run_id": error.run_id}
        found |= {name: value for name, value in more.items() if value is not None}
    return found


def hint_of(error: PalyraError) -> str:
    """Return the next step: the error's own, else its code's, else nothing."""
    return error.hint or _HINTS.get(error.code, "")


def print_error(error: PalyraError) -> None:
    """Print an error for people: sentence, next step, code."""
    first, *rest = redact_text(str(error)).split("\n")
    _print_labelled("error", first, "bad")
    for line in rest:
        print(f"       {clean(line)}", file=sys.stderr)
    hint = hint_of(error)
    if hint:
        _print_labelled("hint", hint, "accent")
    run = f" · run {error.run_id}" if isinstance(error, Refused) and error.run_id else ""
    Page(sys.stderr).line(Styled(f"code: {error.code} · exit {error.exit_code}{run}", "dim"))


def _print_labelled(label: str, text: str, style: str) -> None:
    Page(sys.stderr).line(Styled(f"{label}:", style), f" {text}")


def fail(error: BaseException, *, command: str, as_json: bool, is_verbose: bool) -> int:
    """Report what ended a command; returns the exit status."""
    known = as_palyra_error(error)
    if is_verbose and not as_json:
        trace = redact_text("".join(traceback.format_exception(error)))
        sys.stderr.writelines(f"{clean(line)}\n" for line in trace.rstrip().split("\n"))
    if as_json:
        print_document(command, None, error=known)
    else:
        print_error(known)
    return known.exit_code


def as_palyra_error(error: BaseException) -> PalyraError:
    """Return the error as one of ours: a path that cannot be used, a disk that is full, or a bug."""
    if isinstance(error, PalyraError):
        return error if error.code in CODES else PalyraError(str(error), hint=error.hint, code="internal")
    if isinstance(error, OSError) and error.filename is not None:
        return PalyraError(f"{os.fspath(error.filename)}: {error.strerror}", code="bad_path")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return PalyraError(f"There is no room for what is to be written: {reason_of(error)}.", code="needs_space")
    return PalyraError(f"palyra has a bug: {type(error).__name__}: {error}", code="internal")
