"""What labeling and filters came to, as `filters.json` has it."""

from collections.abc import Sequence
from typing import Any

from kdasr.labeling.filters import Filter
from kdasr.labeling.run import LabelWork
from kdasr.labeling.selection import Counts, Tally


def summarize(
    works: Sequence[LabelWork], filters: Sequence[Filter], counts: Counts, settings: dict[str, Any]
) -> dict[str, Any]:
    """Plain values.

    Of each filter: `dropped` (what it drops, whatever the others do; where there are transcripts
    `precision` is the percentage of these labels with a word error, to be compared with `wrong_percent` of
    `all`), `alone` (what it would keep alone) and `after` (what it and those before it keep).
    """
    return {
        "settings": settings,
        "labelers": [_pace(work) for work in works],
        "all": counts.all.as_json(),
        "kept": counts.kept.as_json(),
        "missing": counts.missing,
        "empty_and_silent": counts.empty_and_silent,
        "languages": {
            name: {**tally.as_json(), "unspelled": len(counts.unspelled.get(name, []))}
            for name, tally in sorted(counts.languages.items())
        },
        "filters": [
            {
                "name": entry.name,
                "threshold": entry.threshold,
                "meaning": entry.meaning,
                "precision": _percent(counts.dropped[entry.name]),
                "dropped": counts.dropped[entry.name].as_json(),
                "alone": counts.alone[entry.name].as_json(),
                "after": counts.after[entry.name].as_json(),
            }
            for entry in filters
        ],
    }


def _percent(tally: Tally) -> float | None:
    return None if tally.wrong_share is None else round(tally.wrong_share, 2)


def _pace(work: LabelWork) -> dict[str, Any]:
    compute, audio = work.pace()
    return {
        "name": work.name,
        "audio_hours": round(audio / 3600, 6),
        "compute_hours": round(compute / 3600, 6),
        "compute_hours_per_audio_hour": round(compute / audio, 4) if audio else None,
    }
