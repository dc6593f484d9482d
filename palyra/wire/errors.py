"""Errors of the wire: a request that cannot be read is the client's mistake, an answer the provider's."""

from __future__ import annotations

from functools import partial
from typing import Any

from palyra.errors import PalyraError


class WireError(PalyraError):
    """The request cannot be read."""

    code = "invalid_request"

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        """`code` is a key of `palyra.errors.CODES`; `param` names the field at fault: ``messages[2].content``."""
        super().__init__(message, code=code)
        self.message = message
        self.param = param

    def __reduce__(self) -> tuple[Any, ...]:
        return WireError, (self.code, self.message, self.param)


class Malformed(WireError):
    """The provider's answer cannot be read."""

    def __init__(self, message: str, *, code: str = "malformed_response") -> None:
        super().__init__(code, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Malformed, code=self.code), (self.message,)
