"""`TokenUsage`: the one normal form of what an attempt consumed, whatever the provider's dialect."""

from __future__ import annotations

import msgspec


class TokenUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Totals, their parts ("of which", never added on top) and the meters beside tokens.

    A cached input token is part of `input_tokens`, a reasoning token part of `output_tokens`.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    #: Parts of the input.
    cached_input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    #: Parts of the output.
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0
    #: Meters beside tokens.
    audio_ms: int = 0
    image_count: int = 0
    search_count: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def is_empty(self) -> bool:
        return self == TokenUsage()

    @property
    def text_input_tokens(self) -> int:
        """The input without its parts."""
        parts = self.cached_input_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens
        return self.input_tokens - parts - self.input_audio_tokens - self.input_image_tokens

    @property
    def text_output_tokens(self) -> int:
        """The output without its parts."""
        return self.output_tokens - self.reasoning_tokens - self.output_audio_tokens
