"""Token estimates of what is no text: images by their size, documents and audio by theirs (gateway spec 5.1).

Only headers are looked at. Nothing is fetched, decompressed or rendered.
"""

from __future__ import annotations

import binascii
import struct

from palyra.units import ceil_div

IMAGE_LOW_TOKENS = 85
#: Also the estimate of an image whose size cannot be known.
IMAGE_MAX_TOKENS = 1_600
_PIXELS_PER_TOKEN = 750
_DOCUMENT_STEP_TOKENS = 1_500
_DOCUMENT_STEP_BYTES = 50 * 1024
_AUDIO_BYTES_PER_TOKEN = 3_200

#: Base64 characters that are decoded to find an image's size; in a JPEG it may follow long metadata.
_HEADER_CHARS = 256 * 1024


def estimate_image_tokens(url: str, detail: str = "") -> int:
    """Return the tokens of an image given as a URL or as a data URL."""
    if detail == "low":
        return IMAGE_LOW_TOKENS
    size = image_size(_data_url_head(url))
    if size is None:
        return IMAGE_MAX_TOKENS
    return min(max(ceil_div(size[0] * size[1], _PIXELS_PER_TOKEN), IMAGE_LOW_TOKENS), IMAGE_MAX_TOKENS)


def estimate_document_tokens(base64_data: str) -> int:
    """Return the tokens of a document in base64 or a data URL; one named elsewhere ("") counts as short."""
    return max(1, ceil_div(_decoded_bytes(base64_data), _DOCUMENT_STEP_BYTES)) * _DOCUMENT_STEP_TOKENS


def estimate_audio_tokens(base64_data: str) -> int:
    """Return the tokens of audio in base64 or a data URL."""
    return ceil_div(_decoded_bytes(base64_data), _AUDIO_BYTES_PER_TOKEN)


def _decoded_bytes(base64_data: str) -> int:
    return (len(base64_data) - base64_data.find(",") - 1) * 3 // 4


def _data_url_head(url: str) -> bytes:
    head, comma, _ = url[:256].partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return b""
    start = len(head) + 1
    try:
        # Surplus padding is ignored, missing padding is not.
        return binascii.a2b_base64(url[start : start + _HEADER_CHARS] + "===")
    except ValueError:
        return b""


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) in pixels from the head of a PNG, GIF, WebP or JPEG; None when it is none of them."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _pair(">II", data, 16)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return _pair("<HH", data, 6)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
    except (struct.error, IndexError):
        pass
    return None


def _pair(layout: str, data: bytes, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, data, offset)
    return first, second


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """RFC 9649: the lossy, the lossless and the extended form keep their size in three ways."""
    form = data[12:16]
    if form == b"VP8 ":
        width, height = _pair("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if form == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return (high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1
    return None


#: Start-of-frame markers: 0xC0..0xCF without DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """ITU T.81, annex B: walk the segments to the frame header."""
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _START_OF_FRAME:
            height, width = _pair(">HH", data, position + 5)
            return width, height
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + length
    return None
