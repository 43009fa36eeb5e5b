"""Which utterances the report shows, by a rule that it states, and their spectrograms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdasr.common.failures import first_line
from kdasr.report.records import SystemRecord

# Shapes: T feature frames (10 ms), F mel bins.

MAX_SECONDS = 10.0
"""Longer utterances are hard to read on one line; they are chosen only when there are hardly any others."""

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Example:
    """An utterance to show, and why it was chosen."""

    part: str
    id: str
    reason: str


def choose_examples(
    systems: Sequence[SystemRecord], pairs: Sequence[tuple[str, str]]
) -> tuple[list[Example], str]:
    """Three utterances and the rule behind them: the largest gain, the largest loss, and a typical one.

    The first of `pairs` (student, baseline) that was decoded chooses them by its disagreement, on all parts
    that both decoded; ties go to the first id, so the choice is the same in every run.
    """
    by_name = {system.name: system for system in systems if system.parts}
    for row, baseline in pairs:
        if row in by_name and baseline in by_name:
            gains = _gains(by_name[row], by_name[baseline])
            if gains:
                return _extremes(gains, row, baseline)
    first = next(iter(by_name.values()))
    errors = _short_first(
        [
            (utterance.duration, utterance.num_errors, part.part, id)
            for part in first.parts.values()
            for id, utterance in part.utterances.items()
        ]
    )
    picks = {"median number of errors": sorted(errors)[len(errors) // 2], "most errors": max(errors)}
    examples = [Example(part, id, f"{name} of {first.name}") for name, (_, part, id) in picks.items()]
    return _unique(examples), f"Chosen by rule: the median and the largest number of errors of {first.name}."


def _gains(row: SystemRecord, baseline: SystemRecord) -> list[tuple[int, str, str]]:
    """Errors that `row` saves on each common utterance, most first."""
    gains = [
        (utterance.duration, baseline.parts[part].utterances[id].num_errors - utterance.num_errors, part, id)
        for part, decoded in row.parts.items()
        if part in baseline.parts
        for id, utterance in decoded.utterances.items()
        if id in baseline.parts[part].utterances
    ]
    return sorted(_short_first(gains), key=lambda gain: (-gain[0], gain[1], gain[2]))


def _short_first(scored: Sequence[tuple[float, int, str, str]]) -> list[tuple[int, str, str]]:
    """Score, part and id of the utterances that are short enough, or of all when there are too few."""
    short = [entry for entry in scored if entry[0] <= MAX_SECONDS]
    return [entry[1:] for entry in (short if len(short) >= NUM_EXAMPLES else scored)]


def _extremes(gains: Sequence[tuple[int, str, str]], row: str, baseline: str) -> tuple[list[Example], str]:
    best, worst = gains[0], min(gains, key=lambda gain: (gain[0], gain[1], gain[2]))
    rest = [gain for gain in gains if gain not in (best, worst)] or [best]
    picks = [("largest gain", best), ("largest loss", worst), ("median", rest[len(rest) // 2])]
    examples = [
        Example(part, id, f"{name}: {row} makes {_difference(gain)} than {baseline}")
        if gain
        else Example(part, id, f"{name}: {row} and {baseline} make as many errors")
        for name, (gain, part, id) in picks
    ]
    rule = (
        f"Chosen by rule from {len(gains)} utterances (up to {MAX_SECONDS:g} s long, or all when fewer than "
        f"{NUM_EXAMPLES} are), by the errors that {row} saves against {baseline}: the largest gain, the "
        "largest loss and the median of the others; ties go to the first id."
    )
    return _unique(examples), rule


def _difference(gain: int) -> str:
    count = abs(gain)
    return f"{count} {'fewer' if gain > 0 else 'more'} error{'' if count == 1 else 's'}"


def _unique(examples: Sequence[Example]) -> list[Example]:
    return list({(example.part, example.id): example for example in reversed(examples)}.values())[::-1]


def load_spectrograms(
    data_dir: Path | None, examples: Sequence[Example]
) -> tuple[Mapping[tuple[str, str], np.ndarray], list[str]]:
    """Log-mel features (T, F) of the examples that are found and have any, and a note about each problem."""
    if data_dir is None or not data_dir.is_dir():
        where = "no data folder was given (--data)" if data_dir is None else f"{data_dir} does not exist here"
        return {}, [f"Spectrograms are left out: {where}."]
    found: dict[tuple[str, str], np.ndarray] = {}
    notes: list[str] = []
    for part in dict.fromkeys(example.part for example in examples):
        wanted = {example.id for example in examples if example.part == part}
        try:
            found |= {(part, id): features for id, features in _part_features(data_dir, part, wanted).items()}
        except (ValueError, OSError, EOFError) as error:  # of features that are damaged, too
            notes.append(f"Spectrograms of {part} are left out: {first_line(error)}.")
            continue
        missing = sorted(wanted - {id for key, id in found if key == part})
        if missing:
            notes.append(f"No spectrogram of {', '.join(missing)}: not in {part} of {data_dir}.")
    return {key: features_TF for key, features_TF in found.items() if len(features_TF)}, notes


def _part_features(data_dir: Path, part: str, wanted: set[str]) -> dict[str, np.ndarray]:
    """Stored features of the wanted cuts, or features of their audio."""
    # Lhotse and torch load in seconds; a report without spectrograms does not wait for them.
    from kdasr.data.features import compute_features, load_cut_samples
    from kdasr.data.loader import load_cuts

    features: dict[str, np.ndarray] = {}
    for cut in load_cuts(data_dir, part):
        if cut.id not in wanted:
            continue
        if cut.has_features:
            features[cut.id] = np.asarray(cut.load_features())
        else:
            features[cut.id] = compute_features(load_cut_samples(cut)).numpy()
        if len(features) == len(wanted):
            break
    return features
