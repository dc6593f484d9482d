"""How long recordings last by their headers; any bytes at all give a length or none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import OPUS, VORBIS, flac, id3, mp3, mp4, ogg, wav

from palyra.wire.audio_length import audio_length_ms, guessed_length_ms

_XING_V1 = bytes(17) + b"Xing" + struct.pack(">II", 1, 100)
_INFO_V2 = bytes(9) + b"Info" + struct.pack(">II", 1, 100)
_XING_WITHOUT_FRAMES = bytes(17) + b"Xing" + struct.pack(">II", 2, 100)
_VBRI = bytes(32) + b"VBRI" + bytes(10) + struct.pack(">I", 100)


@pytest.mark.parametrize(
    ("data", "length_ms"),
    [
        (wav(1.5), 1_500),
        (wav(1.5, open_end=True), 1_500),
        (flac(66_150), 1_500),
        (ogg(OPUS, 72_312), 1_500),
        (ogg(OPUS, 72_312, stranger=True), 1_500),
        (ogg(VORBIS, 12_000), 1_500),
        (ogg(b"\x7fFLAC\x01\0\0\x01" + flac(66_150), 1), 1_500),
        (mp4(), 1_500),
        (mp4(long=True), 1_500),
        (mp4(wide=True), 1_500),
        # 128 kbit/s: 16 bytes a millisecond.
        (mp3(9, 24_000), 1_500),
        (mp3(9, 24_000, tag=id3()), 1_500),
        # MPEG 2: 80 kbit/s.
        (mp3(9, 15_000, version=2), 1_500),
        (mp3(9, 24_000, more=_XING_V1), 2_613),
        (mp3(9, 24_000, more=_INFO_V2, version=2), 2_613),
        (mp3(9, 24_000, more=_XING_WITHOUT_FRAMES), 1_500),
        (mp3(9, 24_000, more=_VBRI), 2_613),
    ],
)
def test_a_length_by_the_header(data: bytes, length_ms: int) -> None:
    """Each container tells it in its own way, to the millisecond."""
    assert audio_length_ms(data) == length_ms


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1a\x45\xdf\xa3webm",
        wav(0),
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVE" + (b"junk" + bytes(4)) * 5_000,
        b"RIFF\0\0\0\0WAVEdata" + struct.pack("<I", 100) + bytes(100),
        flac(0),
        ogg(b"Speex   ", 100),
        ogg(OPUS, -1),
        ogg(OPUS, 312),
        b"OggS" + bytes(22) + b"\x01" + OPUS,
        ogg(OPUS, 0)[:50] + b"OggS" * 5_000 + bytes(20),
        mp4(duration=1 << 60, scale=1, long=True),
        mp4()[:40],
        struct.pack(">I4s", 16, b"ftyp") + bytes(8) + bytes(8),
        (struct.pack(">I4s", 8, b"ftyp")) * 5_000,
        b"ID3\x04\0\0\x7f\x7f\x7f\x7f",
        b"\xff\xe0" + bytes(100),
        b"\xff\xfa\xf0\x00" * 5_000,
        b"\xff\xfa\x0c",
    ],
)
def test_what_tells_no_length(data: bytes) -> None:
    """Empty, cut, endless, absurd and unknown files have none; no walk goes on for ever."""
    assert audio_length_ms(data) is None


_MAGIC = st.sampled_from([b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"\0\0\0\x10ftyp", b"ID3", b"\xff\xfb", b""])


@given(_MAGIC, st.binary(max_size=200), st.sampled_from([wav(), flac(), ogg(OPUS, 1_000), mp4(), mp3()]))
def test_any_bytes_have_a_length_or_none(magic: bytes, noise: bytes, sound: bytes) -> None:
    """Noise behind a right beginning, and right files with noise over them, end no walk with an error."""
    for data in (magic + noise, sound[: len(noise)] + noise + sound[2 * len(noise) :]):
        length_ms = audio_length_ms(data)
        assert length_ms is None or length_ms > 0


def test_a_guess_is_by_size() -> None:
    """4,000 bytes a second, rounded up."""
    assert [guessed_length_ms(size) for size in (1, 4_000, 4_001)] == [1, 1_000, 1_001]
