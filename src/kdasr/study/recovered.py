"""How much of the distance to full supervision every training has recovered without transcripts."""

from typing import Any

from kdasr.study.evidence import Evidence
from kdasr.study.trained_run import part_result


def recovered(evidence: Evidence, *, with_lm: bool) -> list[dict[str, Any]]:
    """One entry per run and part: `system`, `seed`, `part`, `wer` (percent), `recovered`, `with_lm`.

    `recovered` is the share `(base - system) / (base - bound)` of the word error rates of the same seed,
    where `base` is the first baseline and `bound` the bound (the WER recovery rate of Hsu et al. 2020, arXiv
    2002.10336): 0 at the baseline, 1 at the bound, and null where one of them is missing or where the
    bound is not better than the baseline.

    Args:
        evidence: the runs as decoded.
        with_lm: whether a language model took part in that.
    """
    entries = []
    for row in evidence.rows:
        for part in evidence.parts:
            bases = evidence.by_seed(evidence.baselines[0], part)
            bounds = evidence.by_seed(evidence.bound, part)
            for seed, run in evidence.of(row, part).items():
                wer = part_result(run, part).wer
                base = part_result(bases[seed], part).wer if seed in bases else None
                bound = part_result(bounds[seed], part).wer if seed in bounds else None
                entries.append(
                    {
                        "system": row,
                        "seed": seed,
                        "part": part,
                        "wer": wer,
                        "recovered": _share(wer, base, bound),
                        "with_lm": with_lm,
                    }
                )
    return entries


def _share(wer: float | None, base: float | None, bound: float | None) -> float | None:
    if wer is None or base is None or bound is None or base <= bound:
        return None
    return (base - wer) / (base - bound)
