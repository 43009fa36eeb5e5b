"""How much of the distance to full supervision every training has recovered without transcripts."""

from typing import Any

from kdasr.study.evidence import Evidence
from kdasr.study.trained_run import part_result


def recovered(evidence: Evidence, *, with_lm: bool) -> list[dict[str, Any]]:
    """One entry per run and part: `system`, `seed`, `part`, `wer` (percent), `recovered`, `with_lm`.

    `recovered` is the share `(base - system) / (base - topline)` of the word error rates of the same seed,
    where `base` is the first baseline and `topline` the topline (the WER recovery rate of Hsu et al. 2020,
    arXiv 2002.10336): 0 at the baseline, 1 at the topline, and null where one of them is missing or where the
    topline is not better than the baseline.

    Args:
        evidence: the runs as decoded.
        with_lm: whether a language model took part in that.
    """
    entries = []
    for row in evidence.rows:
        for part in evidence.parts:
            bases = evidence.by_seed(evidence.baselines[0], part)
            toplines = evidence.by_seed(evidence.topline, part)
            for seed, run in evidence.of(row, part).items():
                wer = part_result(run, part).wer
                base = part_result(bases[seed], part).wer if seed in bases else None
                topline = part_result(toplines[seed], part).wer if seed in toplines else None
                entries.append(
                    {
                        "system": row,
                        "seed": seed,
                        "part": part,
                        "wer": wer,
                        "recovered": _share(wer, base, topline),
                        "with_lm": with_lm,
                    }
                )
    return entries


def _share(wer: float | None, base: float | None, topline: float | None) -> float | None:
    if wer is None or base is None or topline is None or base <= topline:
        return None
    return (base - wer) / (base - topline)
