"""`privacy`: prompts and answers that were kept, and are to be no more."""

from __future__ import annotations

from typing import Annotated

import msgspec

from palyra.engine.console.changes import Order
from palyra.engine.console.frame import Params
from palyra.engine.questions import Answer
from palyra.events.base import Draft
from palyra.events.privacy import SubjectErased, SubjectKind


class EraseParams(Params, frozen=True, kw_only=True):
    """Whose content goes."""

    kind: SubjectKind
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class ErasedAnswer(Answer, frozen=True, kw_only=True):
    """What is gone."""

    kind: str
    subject: str
    #: Runs whose content was kept.
    contents_count: int


async def erase(order: Order, params: EraseParams) -> ErasedAnswer:
    """Delete all content that is kept of a subject, and record that it was."""
    count = await order.desk.contents.erase(params.kind, params.subject)
    fact = SubjectErased(kind=params.kind, subject=params.subject, contents_count=count)
    await order.record([Draft("privacy", fact)])
    return ErasedAnswer(kind=params.kind, subject=params.subject, contents_count=count)
