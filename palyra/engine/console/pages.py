"""Pages of lists: a cursor names the row that a page ended with, so rows that arrive meanwhile move nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from palyra.engine.console.frame import Items
from palyra.errors import Refusal, Refused

RowT = TypeVar("RowT")
KeyT = TypeVar("KeyT")


class Paged(Protocol):
    """What names a page, as `ListParams` does."""

    @property
    def limit(self) -> int: ...

    @property
    def cursor(self) -> str: ...


def page_of(
    rows: Sequence[RowT],
    params: Paged,
    key: Callable[[RowT], tuple[int | str, ...]],
    *,
    is_falling: bool = False,
) -> Items[RowT]:
    """Return the page that is asked for, of rows in the order of their keys (falling: greatest first).

    Keys are unique; each has the same kinds of parts.
    """
    if params.cursor:
        last = read_cursor(params.cursor, tuple[int | str, ...])
        try:
            rows = [row for row in rows if (key(row) < last if is_falling else key(row) > last)]
        except TypeError:
            raise bad_cursor() from None
    page = list(rows[: params.limit])
    is_last = len(rows) <= params.limit
    return Items(items=page, next_cursor=None if is_last else write_cursor(key(page[-1])))


def write_cursor(key: object) -> str:
    """Return a key as nobody should read it."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def read_cursor(cursor: str, kind: type[KeyT]) -> KeyT:
    """Return the key in a cursor; raises `Refused` (`invalid_query`) for one that was not given out here."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=kind)
    except (ValueError, msgspec.DecodeError):
        raise bad_cursor() from None


def bad_cursor() -> Refused:
    """Return the refusal of a cursor that this list has not given out."""
    message = "This cursor was not given out by this list; start again without one."
    return Refused(Refusal(code="invalid_query", message=message, param="cursor"))
