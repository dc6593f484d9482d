"""How a chapter is written: a Struct of what is true, handlers that fold events into it, questions that read it.

`evolve` is total and pure: state, body and envelope are its only inputs, and no history makes it raise. A handler
that misses what it needs (the run is gone, the circuit was never opened) leaves the state as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palyra.projections.state import State

#: Folds one event: (state, recorded envelope, body).
Handler = Callable[["State", Any, Any], None]


class Chapter:
    """The handlers of one topic, by the Struct that they fold."""

    def __init__(self) -> None:
        self.handlers: dict[type, Handler] = {}

    def on(self, *structs: type) -> Callable[[Handler], Handler]:
        """Register the decorated function as the chapter's handler of these events."""

        def register(handler: Handler) -> Handler:
            for struct in structs:
                self.handlers[struct] = handler
            return handler

        return register
