"""Whether an ogg file is whole: libogg leaves out pages that are damaged, without a word.

Of an ogg file (RFC 3533) every page has a checksum and a number; the first and the last one of a stream are
marked.
"""

import zlib

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_HEADER = 27
_FIRST, _LAST = 2, 4


def fault_in_ogg(content: bytes) -> str | None:
    """Why a file that begins with `OggS` is not one whole stream; None if it is."""
    place, last_of = 0, False
    numbers: dict[bytes, int] = {}
    while place < len(content):
        header = content[place : place + _HEADER]
        if len(header) < _HEADER:
            return "ends early"
        if header[:4] != b"OggS":
            return "damaged: what follows a page of the ogg stream is none"
        lengths = content[place + _HEADER : place + _HEADER + header[26]]
        size = _HEADER + header[26] + sum(lengths)
        page = content[place : place + size]
        if len(page) < size:
            return "ends early"
        if _checksum(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            return "damaged: a page of the ogg stream has another checksum"
        serial, number = page[14:18], int.from_bytes(page[18:22], "little")
        if page[5] & _FIRST:
            if last_of:
                return "several ogg streams one after another, of which one would be heard: split it"
        elif number != numbers.get(serial, -1) + 1:
            return "damaged: a page of the ogg stream is missing"
        numbers[serial] = number
        last_of = bool(page[5] & _LAST)
        place += size
    return None if last_of else "ends early"


def _checksum(page: bytes) -> int:
    """CRC-32 as ogg has it: bits from the left, which is zlib's of reversed bits, reversed."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)
