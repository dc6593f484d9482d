"""`hash-embedding-v1`: a vector from a text by feature hashing, without a model.

Equal texts have equal vectors on every machine, texts that share words are near each other. The definition is
fixed; another one gets another name.
"""

from __future__ import annotations

import hashlib
import math
import struct

DEFAULT_DIMENSIONS = 64


def hash_embedding(text: str, dimensions: int = DEFAULT_DIMENSIONS) -> list[float]:
    """Return a vector of length 1 whose numbers are exact float32.

    Token i, lower-cased, hashes to SHA-256(token, NUL, i in decimals); the first 8 bytes, big-endian, choose the
    bucket, bit 0 of the next byte the sign (set: minus). A text without tokens, or whose tokens cancel each other
    out, is the first axis.
    """
    sums = [0] * dimensions
    for index, token in enumerate(text.split()):
        digest = hashlib.sha256(f"{token.lower()}\0{index}".encode()).digest()
        bucket = int.from_bytes(digest[:8], "big") % dimensions
        sums[bucket] += -1 if digest[8] & 1 else 1
    norm = math.sqrt(sum(value * value for value in sums))
    if not norm:
        return [1.0, *[0.0] * (dimensions - 1)]
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(v / norm for v in sums))))
