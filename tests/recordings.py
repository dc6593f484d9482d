"""Recordings for tests: smallest files of each container whose header tells a length, and forms that carry them."""

from __future__ import annotations

import struct
from typing import Any

BOUNDARY = "cut-here"


def wav(seconds: float = 1.5, *, rate: int = 8_000, open_end: bool = False) -> bytes:
    """PCM of 8 bits, with an odd chunk before its data; `open_end` as a stream writes it."""
    data = b"\x80" * int(seconds * rate)
    size = 0xFFFFFFFF if open_end else len(data)
    fmt = struct.pack("<HHIIHH", 1, 1, rate, rate, 1, 8)
    chunks = b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", 16) + fmt
    chunks += b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def flac(samples: int = 66_150, rate: int = 44_100) -> bytes:
    """STREAMINFO alone."""
    packed = rate << 44 | 1 << 41 | 15 << 36 | samples
    return b"fLaC" + struct.pack(">I", 34) + bytes(10) + struct.pack(">Q", packed) + bytes(16)


def mp3(
    kbit_index: int = 9, size_bytes: int = 16_000, *, version: int = 3, tag: bytes = b"", more: bytes = b""
) -> bytes:
    """A frame of layer III, mono, with a bit rate by its index; `more` is what follows its head."""
    head = bytes([0xFF, 0xE2 | version << 3, kbit_index << 4, 0xC0])
    return tag + head + more + bytes(size_bytes - 4 - len(more))


def id3(size: int = 300) -> bytes:
    """A tag before the first frame, which holds what looks like a frame."""
    return b"ID3\x04\0\0" + bytes([0, 0, size >> 7, size & 0x7F]) + b"\xff" * size


def ogg(first: bytes, granule: int, *, serial: int = 7, stranger: bool = False) -> bytes:
    """A first page with a stream's head, and a last one that counts its samples; a `stranger` ends behind it."""

    def page(granule: int, serial: int, data: bytes) -> bytes:
        return b"OggS\0\0" + struct.pack("<qIII", granule, serial, 0, 0) + b"\x01" + bytes([len(data)]) + data

    end = page(1 << 30, 99, b"x") if stranger else b""
    return page(0, serial, first) + page(granule, serial, b"audio") + end


OPUS = b"OpusHead\x01\x01" + struct.pack("<HI", 312, 48_000) + b"\0\0\0"
VORBIS = b"\x01vorbis" + struct.pack("<IBI", 0, 1, 8_000) + bytes(16)


def mp4(duration: int = 90_000, scale: int = 60_000, *, long: bool = False, wide: bool = False) -> bytes:
    """`ftyp`, what holds the sound, and `moov` behind it; the long form has 64 bits for its times."""

    def box(name: bytes, data: bytes) -> bytes:
        if wide:
            return struct.pack(">I4sQ", 1, name, 16 + len(data)) + data
        return struct.pack(">I4s", 8 + len(data), name) + data

    head = (
        struct.pack(">IQQIQ", 1 << 24, 0, 0, scale, duration)
        if long
        else struct.pack(">IIIII", 0, 0, 0, scale, duration)
    )
    ftyp = struct.pack(">I4s", 16, b"ftyp") + b"M4A \0\0\0\0"
    return ftyp + box(b"mdat", b"sound") + box(b"moov", box(b"mvhd", head + bytes(80)))


def form(*fields: tuple[str, str | None, bytes], boundary: str = BOUNDARY) -> bytes:
    """A form of (name, file's name or None, content)."""
    parts = []
    for name, filename, content in fields:
        head = f'content-disposition: form-data; name="{name}"'
        if filename is not None:
            head += f'; filename="{filename}"\r\nContent-Type: audio/x-what'
        parts.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join([*parts, f"--{boundary}--\r\n".encode()])


def transcription(sound: bytes | None = None, name: str = "a.wav", **fields: Any) -> bytes:
    """The form of a transcription request; fields are texts, or lists of texts."""
    rows: list[tuple[str, str | None, bytes]] = []
    for key, value in fields.items():
        rows += [(key, None, str(one).encode()) for one in (value if isinstance(value, list) else [value])]
    return form(("file", name, wav() if sound is None else sound), *rows)


CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
