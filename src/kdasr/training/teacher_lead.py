"""Is the teacher better than what it teaches? A worse one pulls its student back.

Dev word errors of the teacher, of the student as it starts, and of students of the same context that learnt
without a teacher, in the folders beside it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from lightning_fabric import Fabric

from kdasr.common.logging import get_logger
from kdasr.data.batch import Batch
from kdasr.data.tokenizer import Tokenizer
from kdasr.decoding.greedy import greedy_search
from kdasr.decoding.wer import ErrorCounts, word_errors
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context

logger = get_logger(__name__)


@torch.no_grad()
def dev_wer(
    model: Transducer, batches: Iterable[Batch], tokenizer: Tokenizer, context: Context, fabric: Fabric
) -> float:
    """Word error rate in percent by greedy search of whole utterances under `context`.

    Every process measures all batches. The model's mode stays as it was.
    """
    was_training, errors = model.training, ErrorCounts()
    model.eval()
    for batch in (batch.to(fabric.device) for batch in batches):
        encoded = model.encode(batch.features_BTF, batch.feature_lens_B, context)
        found = greedy_search(model, encoded.encoded_BTD, encoded.lens_B)
        for text, hypothesis in zip(batch.texts, found, strict=True):
            errors += word_errors(tokenizer.normalize(text), tokenizer.decode(hypothesis.tokens))
    model.train(was_training)
    return errors.rate


def last_dev_wer(exp_dir: Path) -> float | None:
    """The dev word error rate at the last validation of a system's training; None where there is none."""
    path = exp_dir / "metrics.jsonl"
    if not path.is_file():
        return None
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    rates = [row["wer"] for row in rows if row.get("split") == "valid" and row.get("wer") is not None]
    return float(rates[-1]) if rates else None


def weak_teacher(teacher_wer: float, others: Mapping[str, float]) -> str | None:
    """A sentence that names what is at least as good as the teacher on dev; None if nothing is.

    Args:
        teacher_wer: the teacher's dev WER in percent.
        others: what to compare with -> its dev WER in percent.
    """
    better = {name: wer for name, wer in others.items() if wer <= teacher_wer}
    if not better:
        return None
    listed = ", ".join(f"{name} {wer:.2f} %" for name, wer in better.items())
    return (
        f"the teacher has {teacher_wer:.2f} % WER on dev and is no better than {listed}: "
        "distilling from it may make the student worse; train the teacher longer, or take a better one"
    )
