"""Questions: what one takes, what it is answered from, and the one form in which answers go out.

A question is a pure function of a `Sight`, a journal as it was at one position seen at one instant. Whoever has a
journal makes sights: the daemon of its memory and of its file, a command of the file alone.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from palyra.engine.questions import Answer
from palyra.errors import Refusal, Refused
from palyra.journal.lock import LockState
from palyra.journal.port import Reader
from palyra.projections.state import State

#: Rows of one page of a list.
PAGE_MAX_COUNT = 500


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a question or a change takes: the placeholders of its path, and query or body. Nothing else is taken."""


class ListParams(Params, frozen=True, kw_only=True):
    """What every list takes."""

    #: Rows of a page.
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX_COUNT)] = 100
    #: `next_cursor` of the page before; opaque.
    cursor: str = ""


class At(Answer, frozen=True, kw_only=True):
    """Of which journal, position and instant an answer is true; of a change: where its event stands."""

    journal_id: str
    position: int
    as_of_us: int


ItemT = TypeVar("ItemT")


class Items(Answer, Generic[ItemT], frozen=True, kw_only=True):
    """One page of a list."""

    items: list[ItemT]
    #: Leads to the page that follows; null on the last one.
    next_cursor: str | None


class JournalFiles(NamedTuple):
    """Where a journal is, and the key that signs its witness note."""

    path: Path
    key_path: Path


class FoldNeeded(Exception):
    """This sight has no state of that position at hand; the question goes to whoever may take long."""


class Sight:
    """A journal at one position, seen at one instant."""

    def __init__(
        self,
        *,
        journal_id: str,
        position: int,
        now_us: int,
        zone: tzinfo | None,
        lock: LockState | Callable[[State], LockState],
        state: State | None = None,
        rows: Reader | None = None,
        fold: Callable[[int], State] | None = None,
        files: JournalFiles | None = None,
        reading: Callable[[int, int], None] | None = None,
    ) -> None:
        self.journal_id = journal_id
        self.position = position
        #: What stands for now.
        self.now_us = now_us
        #: Where a day begins; None is the machine's own zone.
        self.zone = zone
        #: Null for a journal in memory.
        self.files = files
        #: Told how far a pass over the rows is, of how many; null where nobody watches.
        self.reading = reading
        self._lock = lock
        self._state = state
        self._rows = rows
        self._fold = fold

    @property
    def at(self) -> At:
        return At(journal_id=self.journal_id, position=self.position, as_of_us=self.now_us)

    @property
    def state(self) -> State:
        """Everything that was true then."""
        if self._state is None:
            self._state = self.state_at(self.position)
        return self._state

    @property
    def lock(self) -> LockState:
        """Who wrote the journal then."""
        return self._lock(self.state) if callable(self._lock) else self._lock

    @property
    def rows(self) -> Reader:
        """The rows up to the position; raises `FoldNeeded` where only a state is at hand."""
        if self._rows is None:
            raise FoldNeeded
        return self._rows

    def state_at(self, position: int) -> State:
        """Return everything that was true at an earlier position; raises `FoldNeeded`."""
        if self._fold is None:
            raise FoldNeeded
        return self._fold(position)


ParamsT = TypeVar("ParamsT", bound=Params)
AnswerT = TypeVar("AnswerT", bound=Answer)


class Question(NamedTuple, Generic[ParamsT, AnswerT]):
    """One thing that can be asked."""

    #: Below `/console/v1/`; `{name}` is a field of `params`.
    path: str
    params: type[ParamsT]
    #: Shape of the answer, for whoever reads it.
    reply: Any
    answer: Callable[[Sight, ParamsT], AnswerT]
    #: What an asker's key must allow.
    scope: str = "observe"
    #: What is read at the head: the state in memory, which takes no time, or rows, which may; all the rows of a
    #: window are read elsewhere.
    source: Literal["state", "rows", "window"] = "state"
    #: Field of the parameters that names a principal: a client's key asks about its own and no other.
    own: str = ""
    #: POST where what is asked stands in a body, too long or too private for an address; nothing is changed.
    method: Literal["GET", "POST"] = "GET"
    #: It says whether secrets can be had: where nobody runs who would have recorded that, the vault is looked at.
    tells_of_secrets: bool = False


class Written(NamedTuple):
    """An answer that may be long: what it is, what it is called, and its bytes as they are made."""

    at: At
    content_type: str
    file_name: str
    chunks: Iterator[bytes]


class Download(NamedTuple, Generic[ParamsT]):
    """One thing that can be asked whose answer takes long, or is long: a process of its own writes it."""

    #: Below `/console/v1/`; `{name}` is a field of `params`.
    path: str
    params: type[ParamsT]
    write: Callable[[Sight, ParamsT], Written]
    scope: str
    #: Field of the parameters that names a principal; "" for what tells of everybody, and is for operators.
    own: str = ""
    method: Literal["GET", "POST"] = "GET"


class Told(NamedTuple):
    """An answer on its way out."""

    at: At
    #: Its one form: JSON, keys in the order of their definition and `at` at the end.
    data: bytes


def tell(answer: msgspec.Struct, at: At) -> Told:
    """Return an answer as it goes out."""
    fields = {name: getattr(answer, name) for name in answer.__struct_fields__}
    return Told(at, msgspec.json.encode({**fields, "at": at}))


def ask(question: Question[ParamsT, AnswerT], sight: Sight, params: ParamsT) -> Told:
    """Return what a question is answered; raises `PalyraError`, and `FoldNeeded` where the sight is too short."""
    return tell(question.answer(sight, params), sight.at)


def read_query(kind: type[ParamsT], query: Iterable[tuple[str, str]], place: Mapping[str, str]) -> ParamsT:
    """Return the parameters in a query string and a path; raises `Refused` (`invalid_query`).

    A list is written by repeating its name, or with commas.
    """
    lists = _list_fields(kind)
    given: dict[str, Any] = dict(place)
    for name, text in query:
        if name in lists:
            given.setdefault(name, []).extend(part for part in text.split(",") if part)
        elif name in given:
            raise _invalid_query(f"'{name}' is given twice.", name)
        else:
            given[name] = text
    _check_names(kind, given, "invalid_query", place)
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise _invalid_query(*_fault(exc)) from None


def read_body(kind: type[ParamsT], body: bytes, place: Mapping[str, str]) -> ParamsT:
    """Return the parameters in a body and a path; raises `Refused` (`unknown_field`, `invalid_request`)."""
    try:
        given = msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except msgspec.DecodeError:
        raise Refused(Refusal(code="invalid_json", message="The body is no JSON object.")) from None
    _check_names(kind, given, "unknown_field", place)
    try:
        return msgspec.convert({**given, **place}, kind)
    except msgspec.ValidationError as exc:
        message, param = _fault(exc)
        raise Refused(Refusal(code="invalid_request", message=message, param=param)) from None


def write_query(params: Params) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return parameters as texts by name, for a path, and as pairs, for a query, without what is at its default."""
    texts: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for field in msgspec.structs.fields(type(params)):
        value = getattr(params, field.name)
        if isinstance(value, (list, tuple)):
            pairs += [(field.encode_name, str(part)) for part in value]
            continue
        text = ("true" if value else "false") if isinstance(value, bool) else str(value)
        texts[field.encode_name] = text
        if value != field.default:
            pairs.append((field.encode_name, text))
    return texts, pairs


def _check_names(kind: type[Params], given: Mapping[str, Any], code: str, place: Mapping[str, str]) -> None:
    taken = kind.__struct_encode_fields__
    for name in given:
        if name not in taken or (code == "unknown_field" and name in place):
            others = ", ".join(field for field in taken if field not in place) or "nothing"
            message = f"'{name}' is not taken here; what is: {others}."
            raise Refused(Refusal(code=code, message=message, param=name))


def _list_fields(kind: type[Params]) -> list[str]:
    origins = {field.encode_name: typing.get_origin(field.type) for field in msgspec.structs.fields(kind)}
    return [name for name, origin in origins.items() if origin in (list, tuple, Sequence)]


def _fault(exc: msgspec.ValidationError) -> tuple[str, str | None]:
    """Return what is wrong and where, of msgspec's words for it."""
    what, _, where = str(exc).partition(" - at `$.")
    field = where.rstrip("`").partition(".")[0].partition("[")[0]
    missing = what.startswith("Object missing required field `")
    if missing:
        field = what.removeprefix("Object missing required field `").rstrip("`")
        return f"'{field}' is missing.", field
    return (f"'{field}': {what}." if field else f"{what}."), field or None


def _invalid_query(message: str, param: str | None) -> Refused:
    return Refused(Refusal(code="invalid_query", message=message, param=param))
