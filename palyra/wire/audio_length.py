"""How long a recording lasts, by the header of its container: WAV, FLAC, MP3, Ogg and MP4.

Only headers are read, nothing is decoded. What a header says is believed: it prices a request whose provider does
not tell. Each walk is bounded, so that no file can hold the reader.
"""

from __future__ import annotations

import struct

from palyra.units import ceil_div

Bytes = memoryview

_STEPS_MAX_COUNT = 4_096
#: Of an MP3's beginning, in which its first frame is looked for, and of an Ogg file's end with its last page.
_SEEN_BYTES = 64 * 1024
#: What a second of unknown audio is taken for: 32 kbit.
_BYTES_PER_MS = 4
#: More than this is no length of one recording: ten days.
_LENGTH_MAX_MS = 864_000_000


def audio_length_ms(data: bytes | Bytes) -> int | None:
    """Return the length that a container tells, rounded up; None where it tells none or is not known."""
    view = memoryview(data)
    head = bytes(view[:12])
    try:
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            length = _wav(view)
        elif head[:4] == b"fLaC":
            length = _flac(view, 4)
        elif head[:4] == b"OggS":
            length = _ogg(view)
        elif head[4:8] == b"ftyp":
            length = _mp4(view)
        elif head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
            length = _mp3(view)
        else:
            return None
    except (struct.error, IndexError, ZeroDivisionError):
        return None
    return length if length is not None and 0 < length <= _LENGTH_MAX_MS else None


def guessed_length_ms(size_bytes: int) -> int:
    """Return what is assumed of a recording that does not tell: 4,000 bytes a second."""
    return ceil_div(size_bytes, _BYTES_PER_MS)


def _wav(view: Bytes) -> int | None:
    """RIFF: the data's size by the bytes a second of `fmt `. A size that a stream left open is all the rest."""
    position, rate = 12, 0
    for _ in range(_STEPS_MAX_COUNT):
        name, size = struct.unpack_from("<4sI", view, position)
        if name == b"fmt ":
            (rate,) = struct.unpack_from("<I", view, position + 16)
        elif name == b"data":
            return ceil_div(min(size, len(view) - position - 8) * 1_000, rate)
        position += 8 + size + size % 2
    return None


def _flac(view: Bytes, position: int) -> int:
    """STREAMINFO is the first block: 20 bits of sample rate, 8 of shape, 36 of total samples."""
    (packed,) = struct.unpack_from(">Q", view, position + 4 + 10)
    return ceil_div((packed & 0xFFFFFFFFF) * 1_000, packed >> 44)


def _ogg(view: Bytes) -> int | None:
    """The last page's granule position counts samples: of Opus at 48 kHz behind its pre-skip, of Vorbis at its own.

    RFC 3533, RFC 7845.
    """
    serial = bytes(view[14:18])
    packet = 27 + view[26]
    first = bytes(view[packet : packet + 64])
    if first.startswith(b"OpusHead"):
        rate, skip = 48_000, struct.unpack_from("<H", first, 10)[0]
    elif first.startswith(b"\x01vorbis"):
        rate, skip = struct.unpack_from("<I", first, 12)[0], 0
    elif first.startswith(b"\x7fFLAC"):
        return _flac(view, packet + 13)
    else:
        return None
    tail = bytes(view[-_SEEN_BYTES:])
    at = len(tail)
    for _ in range(_STEPS_MAX_COUNT):
        at = tail.rfind(b"OggS", 0, at)
        if at < 0:
            return None
        (granule,) = struct.unpack_from("<q", tail, at + 6)
        if tail[at + 14 : at + 18] == serial and granule > 0:
            return ceil_div(max(0, granule - skip) * 1_000, rate)
    return None


def _mp4(view: Bytes) -> int | None:
    """ISO 14496-12: `moov` holds `mvhd` with time scale and duration."""
    position = 0
    for _ in range(_STEPS_MAX_COUNT):
        size, name = struct.unpack_from(">I4s", view, position)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", view, position + 8)
            head = 16
        if name == b"moov":
            position += head  # its first boxes are within it
            continue
        if name == b"mvhd":
            is_long = view[position + head] == 1
            layout, offset = (">IQ", 20) if is_long else (">II", 12)
            scale, duration = struct.unpack_from(layout, view, position + head + offset)
            return ceil_div(duration * 1_000, scale)
        if size < head:
            return None
        position += size
    return None


#: By version bits (2.5, reserved, 2, 1): samples a second, and samples a frame of layer III.
_MP3_RATES = ((11_025, 12_000, 8_000), (), (22_050, 24_000, 16_000), (44_100, 48_000, 32_000))
_MP3_BITRATES_V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP3_BITRATES_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


def _mp3(view: Bytes) -> int | None:
    """The first frame of layer III: a Xing or VBRI header in it counts frames, else its bit rate holds for all."""
    start = 0
    if bytes(view[:3]) == b"ID3":
        # Four bytes of seven bits each.
        start = 10 + sum((view[6 + index] & 0x7F) << (21 - 7 * index) for index in range(4))
    seen = bytes(view[start : start + _SEEN_BYTES])
    at = -1
    for _ in range(_STEPS_MAX_COUNT):
        at = seen.find(b"\xff", at + 1)
        if at < 0 or at + 4 > len(seen):
            return None
        version, layer = seen[at + 1] >> 3 & 3, seen[at + 1] >> 1 & 3
        bitrate_index, rate_index = seen[at + 2] >> 4, seen[at + 2] >> 2 & 3
        is_frame = seen[at + 1] & 0xE0 == 0xE0 and version != 1 and layer == 1
        if not is_frame or not 0 < bitrate_index < 15 or rate_index == 3:
            continue
        rate = _MP3_RATES[version][rate_index]
        samples = 1_152 if version == 3 else 576
        frames = _mp3_frames(seen, at, is_first=version == 3)
        if frames is not None:
            return ceil_div(frames * samples * 1_000, rate)
        kbit = (_MP3_BITRATES_V1 if version == 3 else _MP3_BITRATES_V2)[bitrate_index]
        return ceil_div((len(view) - start - at) * 8, kbit)
    return None


def _mp3_frames(seen: bytes, at: int, *, is_first: bool) -> int | None:
    is_mono = seen[at + 3] >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    xing = at + 4 + side
    if seen[xing : xing + 4] in (b"Xing", b"Info") and seen[xing + 7] & 1:
        return int.from_bytes(seen[xing + 8 : xing + 12], "big")
    vbri = at + 4 + 32
    if seen[vbri : vbri + 4] == b"VBRI":
        return int.from_bytes(seen[vbri + 14 : vbri + 18], "big")
    return None
