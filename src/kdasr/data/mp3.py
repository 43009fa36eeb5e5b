"""Whether an mp3 file is whole: decoders leave out frames that are damaged or missing, without a word.

An mp3 file is a row of frames, each of which begins with its own header (ISO 11172-3, 13818-3). Encoders put
one without sound before them, which has their number and mostly a checksum of all their bytes (Xing's header,
as LAME extended it).
"""

from typing import NamedTuple

_MPEG_1 = 3
_BIT_RATES = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""In kbit/s by the index in a header, which begins at 1; of MPEG 1, and of MPEG 2 and 2.5."""
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""In Hz by the version and the index in a header."""
_AT_THE_END = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")
"""What may follow the last frame."""
_LAME = (b"LAME", b"L3.9")
"""Encoders that write checksums of the frames and of their own header. Others fill those fields otherwise."""
_EXTENSION = 120
"""Bytes from the word `Info` or `Xing` to LAME's extension, where all fields before it are there."""


class _Header(NamedTuple):
    version: int
    sample_rate: int
    size: int
    """Of the whole frame, in bytes."""
    marker: int
    """Where in the frame the word `Info` or `Xing` stands."""


def is_mp3(head: bytes) -> bool:
    """Whether a file that begins so is an mp3, perhaps after a tag."""
    return head[:3] == b"ID3" or _header(head) is not None


def fault_in_mp3(content: bytes) -> str | None:
    """Why a file is not one whole row of frames; None if it is."""
    start = _after_tags(content)
    first = _header(content[start : start + 4])
    if first is None:
        return "damaged: it does not begin with a frame of mp3"
    place, count = start, 0
    while place < len(content) and not content.startswith(_AT_THE_END, place):
        header = _header(content[place : place + 4])
        if header is None and not content[place:].strip(b"\0"):
            break  # it was filled up
        if len(content) - place < (4 if header is None else header.size):
            return "ends early"
        if header is None or header[:2] != first[:2]:
            return "damaged: what follows a frame of mp3 is none"
        place, count = place + header.size, count + 1
    return _fault_by_its_own_account(content, start, first, count)


def _fault_by_its_own_account(content: bytes, start: int, first: _Header, count: int) -> str | None:
    """What the frame without sound says against a row of `count` frames, of which it is the first."""
    marker = start + first.marker
    extension = marker + _EXTENSION
    is_extended = content.startswith(_LAME, extension)
    if content[marker : marker + 4] not in (b"Info", b"Xing"):
        return "damaged: its first frame is not what its encoder wrote" if is_extended else None
    flags = _number(content, marker + 4, 4)
    told = _number(content, marker + 8, 4) if flags & 1 else count - 1
    if told != count - 1 and (is_extended or told != count):  # some old encoders count their own frame
        return "ends early" if count - 1 < told else f"has {count - 1} frames, its header says {told}"
    if not is_extended:
        return None
    size, music, tag = (_number(content, extension + at, width) for at, width in ((28, 4), (32, 2), (34, 2)))
    if tag and tag != _checksum(content[start : extension + 34]):
        return "damaged: its first frame has another checksum"
    sound = content[start + first.size : start + size]
    if music and size > first.size and start + size <= len(content) and music != _checksum(sound):
        return "damaged: its frames have another checksum"
    return None


def _after_tags(content: bytes) -> int:
    """Where the frames begin: after tags, which say how long they are (ID3v2), and zeros."""
    place = 0
    while content[place : place + 3] == b"ID3" and len(content) > place + 10:
        size = 0
        for byte in content[place + 6 : place + 10]:
            size = size << 7 | byte & 0x7F
        place += size + (20 if content[place + 5] & 0x10 else 10)
    while content[place : place + 1] == b"\0":
        place += 1
    return place


def _header(head: bytes) -> _Header | None:
    """What the four bytes before a frame of layer III say; None of others."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, bit_rate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bit_rate in (0, 15) or rate == 3:
        return None
    is_first = version == _MPEG_1
    sample_rate = _RATES[version][rate]
    samples = 1152 if is_first else 576
    size = samples // 8 * 1000 * _BIT_RATES[is_first][bit_rate - 1] // sample_rate + (head[2] >> 1 & 1)
    is_mono = head[3] >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return _Header(version, sample_rate, size, 4 + side)


def _number(content: bytes, place: int, width: int) -> int:
    return int.from_bytes(content[place : place + width])


def _table() -> list[int]:
    values = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
        values.append(value)
    return values


_TABLE = _table()


def _checksum(content: bytes) -> int:
    """CRC-16 with the polynomial 0x8005, bits from the right."""
    value = 0
    for byte in content:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value
