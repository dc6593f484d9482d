"""`journal/verdicts`: the verdict of a check that an operator's program has made beside the daemon.

The check reads the file, which any program may do while the daemon serves; only the fact about it has one writer.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from palyra.decisions.verdicts import Bad, Check, record_check
from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Params
from palyra.engine.questions import Answer
from palyra.errors import PalyraError

_LISTED_MAX_COUNT = 1_000
_Position = Annotated[int, msgspec.Meta(ge=1)]
_Code = Annotated[str, msgspec.Meta(pattern="^[a-z_]{1,40}$")]


class BadParams(Params, frozen=True, kw_only=True):
    """A finding that is more than information."""

    code: _Code
    position: _Position | None = None


class VerdictParams(Params, frozen=True, kw_only=True):
    """What was checked, and what was found."""

    first: _Position
    last: Annotated[int, msgspec.Meta(ge=0)]
    quick: bool = False
    replayed: bool = False
    bad: Annotated[list[BadParams], msgspec.Meta(max_length=_LISTED_MAX_COUNT)] = []
    bad_count: Annotated[int, msgspec.Meta(ge=0)] = 0


class VerdictAnswer(Answer, frozen=True, kw_only=True):
    """Where the verdict stands; null where the journal must stay as it was found."""

    position: int | None


async def record_verdict(order: Order, params: VerdictParams) -> VerdictAnswer:
    """Record the verdict of a check."""
    if params.last > order.core.state.position:
        raise PalyraError(f"The journal ends at position {order.core.state.position}.", code="position_not_found")
    check = Check(
        first=params.first,
        last=params.last,
        quick=params.quick,
        replayed=params.replayed,
        bad=[Bad(code=each.code, position=each.position) for each in params.bad],
        bad_count=max(params.bad_count, len(params.bad)),
    )
    drafts = record_check(check)
    await order.record(drafts)
    return VerdictAnswer(position=order.at.position if drafts else None)
