"""Reading manifests of Lhotse cuts that others wrote: safely, and saying what a file is if it is none."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line

_EXPECTED = "expected Lhotse cuts, one JSON object per line (.jsonl or .jsonl.gz)"
_CUTS = ("MonoCut", "MultiCut", "MixedCut", "Cut")


def read_cuts(path: Path) -> list[Cut]:
    """`iter_cuts`, all of them in memory."""
    return list(iter_cuts(path))


def iter_cuts(path: Path) -> Iterator[Cut]:
    """The cuts of a manifest, one after another; audio is not looked at.

    A manifest is a JSON object per line, gzipped or not; or a JSON list, which is read as a whole.

    Raises:
        UserError: no such file, a pickle (which is never opened), not a manifest, or a manifest of something
            else than cuts; names the line.
    """
    for number, item in enumerate(_items(path), start=1):
        place = f"{path}, item {number}"
        kind = _kind_of(item)
        if kind not in _CUTS:
            raise UserError(f"{place}: a manifest of {kind}, not of cuts{_ADVICE.get(kind, '')}")
        try:
            cut = deserialize_item(item)
        except Exception as error:  # Lhotse's classes each raise their own
            raise UserError(f"{place}: not a cut that Lhotse reads ({first_line(error)})") from None
        yield cut


_ADVICE = {
    "recordings": ": make cuts of it: `lhotse cut simple -r RECORDINGS -s SUPERVISIONS cuts.jsonl.gz`",
    "supervisions": ": make cuts of it: `lhotse cut simple -r RECORDINGS -s SUPERVISIONS cuts.jsonl.gz`",
}


def _kind_of(item: Any) -> str:
    if not isinstance(item, dict):
        return "something else"
    if "type" in item and ("tracks" in item or "start" in item or "duration" in item) and "id" in item:
        return str(item["type"])
    if "sources" in item:
        return "recordings"
    if "recording_id" in item and "storage_path" not in item:
        return "supervisions"
    return "features" if "storage_path" in item else "something else"


def _items(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as raw:
            head = raw.read(4)
        if head[:1] == b"\x80" or head == b"PK\x03\x04" or path.suffix in (".pkl", ".pickle", ".pt"):
            raise UserError(
                f"{path}: a pickle, which could run any program: it is not opened. Write the cuts with "
                "CutSet.to_file('cuts.jsonl.gz')"
            )
        packed = head[:2] == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as file:
            first = file.read(1)
            if first == "[":
                yield from json.loads(first + file.read())
                return
            rest = first + file.readline()
            while rest:
                if rest.strip():
                    yield json.loads(rest)
                rest = file.readline()
    except UserError:
        raise
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a manifest: {_EXPECTED}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a manifest ({first_line(error)}): {_EXPECTED}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
