"""Which utterances a transducer can be trained on; the others are reported, never dropped in silence."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from lhotse import CutSet
from lhotse.cut import MonoCut

from kdasr.common.logging import get_logger
from kdasr.data.audio_files import quote
from kdasr.data.data_config import DataConfig
from kdasr.data.features import SAMPLE_RATE, num_feature_frames
from kdasr.data.tokenizer import Tokenizer

log = get_logger(__name__)


NumFrames = Callable[[int], int]
"""How many frames a model's encoder makes of so many feature frames (10 ms)."""


def every_frame(num_features: int) -> int:
    """Of a model that is not known: it has no more frames than there are feature frames."""
    return num_features


class Unusable(NamedTuple):
    """A cut that is left out, and why."""

    id: str
    reason: str


def cut_text(cut: MonoCut) -> str:
    """The transcript of a cut; empty when it has none."""
    return (cut.supervisions[0].text or "") if cut.supervisions else ""


def report_unusable(
    cuts: CutSet,
    tokenizer: Tokenizer,
    config: DataConfig,
    num_frames: NumFrames = every_frame,
    *,
    for_training: bool = True,
) -> tuple[CutSet, list[Unusable]]:
    """Split off the utterances that are too short, too long, or have fewer encoder frames than pieces, and
    those with a piece in their transcript that is no text, such as `<blk>`. What is only recognized
    (`for_training` false) may be of any length, and may have fewer frames than pieces.

    The log gets ids and counts of these, and of transcripts with characters that the tokenizer does not
    know (which stay in, with `<unk>` pieces).
    """
    usable: list[MonoCut] = []
    unusable: list[Unusable] = []
    by_kind: dict[str, list[str]] = defaultdict(list)
    unknown: list[str] = []
    special = {tokenizer.blank_id, tokenizer.sos_eos_id}
    for cut in cuts:
        pieces = tokenizer.encode(cut_text(cut))
        frames = num_frames(num_feature_frames(round(cut.duration * SAMPLE_RATE)))
        if for_training and cut.duration < config.min_seconds:
            kind, value = f"shorter than {config.min_seconds:g} s", f"{cut.duration:.2f} s"
        elif for_training and cut.duration > config.max_seconds:
            kind, value = f"longer than {config.max_seconds:g} s", f"{cut.duration:.2f} s"
        elif not special.isdisjoint(pieces):
            kind, value = "special symbols in the transcript", cut_text(cut)
        elif frames < (max(1, len(pieces)) if for_training else 1):
            kind, value = "fewer encoder frames than pieces", f"{frames} frames, {len(pieces)} pieces"
        else:
            usable.append(cut)
            if tokenizer.unk_id in pieces:
                unknown.append(cut.id)
            continue
        unusable.append(Unusable(cut.id, f"{kind} ({value})"))
        by_kind[kind].append(cut.id)
    total = len(usable) + len(unusable)
    for kind, ids in by_kind.items():
        log.warning("%d of %d utterances left out, %s: %s", len(ids), total, kind, quote(ids))
    if unknown:
        log.warning(
            "%d of %d transcripts have characters unknown to %s: %s",
            len(unknown),
            total,
            tokenizer.model_path,
            quote(unknown),
        )
    return CutSet.from_cuts(usable), unusable
