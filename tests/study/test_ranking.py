"""The ranking on the dev parts, from utterances with known errors: what counts, and in what order."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdasr.report.records import DecodedPart, DecodedUtterance
from kdasr.study.evidence import Evidence
from kdasr.study.evidence_tables import markdown, summary
from kdasr.study.trained_run import RunInfo, TrainedRun

DEV = ["dev-clean", "dev-other"]


def trained(row: str, seed: int, errors: list[list[int]], first: float | None = 100.0) -> TrainedRun:
    """A run with these errors on the utterances of each part, which have ten words each."""
    parts = {}
    for part, counts in zip([*DEV, "test-clean"], errors, strict=False):
        utterances = {
            f"{part}-{i}": DecodedUtterance(
                f"{part}-{i}",
                1.0,
                "",
                "",
                count,
                10,
                first,
                None,
                (),
                first,
                None,
                (),
                (),
                (),
                first_word_ms=first,
            )
            for i, count in enumerate(counts)
        }
        parts[part] = DecodedPart(part, "streaming", Path(), {}, utterances)
    return TrainedRun(RunInfo(row, "teacher", seed, 1e-3, 150, Path(row)), parts)


ROWS = ["teacher", "base", "ours", "other"]
RUNS = [
    *(trained("teacher", seed, [[0, 0], [1]], None) for seed in (1, 2)),
    *(trained("base", seed, [[2, 2], [4], [0]], 150.0) for seed in (1, 2)),
    trained("ours", 1, [[1, 1], [4], [9]], 120.0),
    trained("ours", 2, [[1, 1], [0], [9]], 100.0),
    trained("other", 1, [[0, 0], [5], [9]], 80.0),
    # With a seed that `base` lacks: it does not count, easy as it is.
    trained("ours", 3, [[0, 0], [0], [0]], 0.0),
]
FEWER = {"base": 2, "other": 1, "teacher": 2}


def evidence(runs: list[TrainedRun] = RUNS, **options: Any) -> Evidence:
    usual: dict[str, Any] = {
        "rows": ROWS, "runs": runs, "baselines": ["base"], "topline": "teacher", "seeds": [1, 2, 3],
        "parts": [*DEV, "test-clean"], "test_parts": ["test-clean"], "rank_against": "ours",
        "with_fewer_seeds": FEWER, "choices": ROWS[1:],
    }  # fmt: skip
    return Evidence(**usual | options)


def test_rows_are_ranked_on_the_seeds_that_all_have() -> None:
    found = evidence().ranking
    assert found is not None
    assert (found.parts, found.seeds, found.num_utterances, found.num_words) == (DEV, [1], 3, 30)
    # On seed 1 of both dev parts: 5, 6 and 8 errors in 30 words; test parts do not count.
    assert [(entry.row, round(entry.wer.estimate, 2)) for entry in found.rows] == [
        ("other", 16.67), ("ours", 20.0), ("base", 26.67)
    ]  # fmt: skip
    other = found.rows[0]
    assert other.wer_by_part == {"dev-clean": 0.0, "dev-other": 50.0}
    assert other.fewer.estimate == pytest.approx(100 / 6)
    assert other.earlier.estimate == pytest.approx(40) and other.first_token_ms == 80


def test_a_row_without_all_seeds_is_left_out_alone() -> None:
    found = evidence(with_fewer_seeds=FEWER | {"other": 2}).ranking
    assert found is not None
    assert [entry.row for entry in found.rows] == ["ours", "base"] and found.seeds == [1, 2]
    assert [entry.wer.estimate for entry in found.rows] == pytest.approx([100 * 8 / 60, 100 * 16 / 60])


def test_a_dev_part_in_which_nothing_is_said_has_no_rate() -> None:
    silent = [
        replace(run, parts=run.parts | {"dev-other": replace(run.parts["dev-other"], utterances={
            name: replace(found, num_words=0, num_errors=0)
            for name, found in run.parts["dev-other"].utterances.items()
        })})
        for run in RUNS
    ]  # fmt: skip
    text = json.dumps(summary(evidence(silent))["ranking"], allow_nan=False)
    assert json.loads(text)[0]["wer_by_part"] == {"dev-clean": 0.0, "dev-other": None}
    assert "ours" in markdown(evidence(silent), "make results")


def test_without_dev_parts_there_is_no_ranking() -> None:
    assert evidence(rank_against="").ranking is None
    assert evidence(parts=["test-clean"]).ranking is None
    assert evidence([one for one in RUNS if one.info.row != "ours"]).ranking is None


def test_the_ranking_takes_the_place_of_the_other_dev_tables() -> None:
    text = markdown(evidence(), "make results")
    assert "lowest WER first" in text and "| dev-clean |" not in text
    lines = [line for line in text.splitlines() if line.startswith(("| `", "| **`")) and "| 150 |" in line]
    names = [line.split("`")[1] for line in lines]
    assert names[-3:] == ["other", "ours", "base"]
    assert "**`ours`**" in lines[-2] and "–" in lines[-2] and "undecided" not in lines[-2]
    assert "+40 (+40 to +40) | earlier" in lines[-3]
    ranking = summary(evidence())["ranking"]
    assert [entry["row"] for entry in ranking] == ["other", "ours", "base"]
    assert ranking[0]["wer_rel_reduction"] == pytest.approx(100 / 6)
