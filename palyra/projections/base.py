"""How a chapter is written: a Struct of what is true, handlers that fold events into it, questions that read it.

`evolve` is total and pure: state, body and envelope are its only inputs, and no history makes it raise. A handler
that misses what it needs (the circuit was never opened) leaves the state as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palyra.events.base import Recorded
    from palyra.projections.state import State

#: Folds one event: (state, recorded envelope, body).
Handler = Callable[["State", Any, Any], None]
#: Folds one event of an open run: (state, recorded envelope, body, run).
RunHandler = Callable[["State", Any, Any, Any], None]


class Chapter:
    """The handlers of one topic, by the Struct that they fold."""

    def __init__(self) -> None:
        self.handlers: dict[type, Handler] = {}
        self.run_handlers: dict[type, RunHandler] = {}

    def on(self, *structs: type) -> Callable[[Handler], Handler]:
        """Register the decorated function as the chapter's handler of these events."""

        def register(handler: Handler) -> Handler:
            for struct in structs:
                self.handlers[struct] = handler
            return handler

        return register

    def of_run(self, *structs: type) -> Callable[[RunHandler], RunHandler]:
        """Register the decorated function as a handler of these events of runs.

        It is handed the open run that the event belongs to, and not called where there is none. The handlers of
        `on` come before it.
        """

        def register(handler: RunHandler) -> RunHandler:
            for struct in structs:
                self.run_handlers[struct] = handler
            return handler

        return register

    def fold(self, state: State, recorded: Recorded) -> None:
        """Fold one event into this chapter alone."""
        body = recorded.body
        handler, run_handler = self.handlers.get(type(body)), self.run_handlers.get(type(body))
        if handler is not None:
            handler(state, recorded, body)
        if run_handler is not None:
            run = state.runs.open.get(recorded.stream[4:])
            if run is not None:
                run_handler(state, recorded, body, run)
