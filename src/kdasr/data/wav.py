"""Whether a wav file is whole: libsndfile takes what is there, or what the header says, without a word."""

from typing import BinaryIO

_UNKNOWN = 0x7FFFF000
"""Bytes: programs that write to a pipe do not know the length, and say 0 or more than this."""


def fault_in_wav(file: BinaryIO, size: int) -> str | None:
    """Why a file of `size` bytes that begins with `RIFF` is not one whole row of chunks; None if it is.

    Nothing is said of what was written to a pipe.
    """
    file.seek(4)
    if not 0 < (told := _number(file)) < _UNKNOWN:
        return None
    if size < told + 8:
        return "ends early"
    place = 12
    while place + 8 <= size:
        file.seek(place)
        name = file.read(4)
        length = _number(file)
        end = place + 8 + length
        if name == b"data" and not 0 < length < _UNKNOWN:
            return None
        if name == b"data" and end > size:
            return "ends early"
        if name == b"RIFF":
            return "damaged: another wav follows, which would not be heard"
        if name[:3] in (b"ID3", b"TAG"):
            return None
        if end > size or not all(32 <= byte < 127 for byte in name):
            file.seek(place)
            filled_up = not file.read().strip(b"\0")
            return None if filled_up else "damaged: it holds more than the samples that its header tells of"
        place = end
        place += _is_padded(file, place) if length % 2 else 0
    return None


def _is_padded(file: BinaryIO, place: int) -> bool:
    """Whether a zero follows a chunk of odd length, as it has to; some programs forget it."""
    file.seek(place)
    return file.read(1) == b"\0"


def _number(file: BinaryIO) -> int:
    return int.from_bytes(file.read(4), "little")
