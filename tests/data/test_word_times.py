"""Which word a piece belongs to, and when it is spoken."""

import gc
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lhotse import CutSet
from lhotse.cut import MonoCut
from lhotse.supervision import AlignmentItem

from kdasr.common.errors import UserError
from kdasr.data.data_config import DataConfig
from kdasr.data.loader import TrainLoader, valid_batches
from kdasr.data.tokenizer import Tokenizer, train_tokenizer
from kdasr.data.word_times import ANYWHERE, aligned_words, fault_in_word_times, times_of_pieces
from kdasr.testing import dummy_cuts


def aligned(cut: MonoCut, step: float = 0.2) -> MonoCut:
    """The cut with its words `step` seconds apart, a silence first."""
    words = (cut.supervisions[0].text or "").split()
    items = [AlignmentItem("", 0.0, 0.1)]
    items += [AlignmentItem(word, 0.1 + step * index, step / 2) for index, word in enumerate(words)]
    cut.supervisions[0] = cut.supervisions[0].with_alignment("word", items)
    return cut


def test_every_piece_has_the_times_of_its_word(tokenizer: Tokenizer) -> None:
    (cut,) = (aligned(cut) for cut in dummy_cuts(1, 3.0, 3.0))
    pieces = tokenizer.encode(cut.supervisions[0].text or "")
    times = times_of_pieces(cut, pieces, tokenizer)
    spoken: dict[tuple[float, float], list[int]] = {}
    for piece, time in zip(pieces, times, strict=True):
        spoken.setdefault(time, []).append(piece)
    expected = [(word, (start, end)) for word, start, end in aligned_words(cut)]
    assert [(tokenizer.decode(word), time) for time, word in spoken.items()] == expected
    assert expected[0][1] == (0.1, pytest.approx(0.2))


def test_words_that_do_not_match_the_transcript_tie_nothing(tokenizer: Tokenizer) -> None:
    (cut,) = (aligned(cut) for cut in dummy_cuts(1, 3.0, 3.0))
    pieces = tokenizer.encode(cut.supervisions[0].text or "")
    assert set(times_of_pieces(cut.drop_alignments(), pieces, tokenizer)) == {ANYWHERE}
    more = tokenizer.encode(f"{cut.supervisions[0].text} ONE")
    assert set(times_of_pieces(cut, more, tokenizer)) == {ANYWHERE}


def test_aligned_words_are_written_as_the_pieces_are(tmp_path: Path) -> None:
    spelled = train_tokenizer(["Well known. Yes!"], 0, tmp_path, model_type="char", normalize="words")
    (cut,) = dummy_cuts(1, 3.0, 3.0)
    cut.supervisions[0] = replace(cut.supervisions[0], text="“Well-known”, yes!")
    pieces = spelled.encode("“Well-known”, yes!")
    times = times_of_pieces(aligned(cut), pieces, spelled)
    assert [(spelled.piece(piece), time[0]) for piece, time in zip(pieces, times, strict=True)] == [
        *((char, 0.1) for char in "▁well▁known"), *((char, pytest.approx(0.3)) for char in "▁yes")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("times", "is_sound"),
    [
        ([(0.1, 0.4), (0.5, 3.05)], True),  # an aligner's last frame may reach a little beyond the end
        ([(0.1, 0.4), (0.3, 0.9)], True),
        ([(0.1, 0.4), (2.5, 3.2)], False),
        ([(-0.2, 0.4), (0.5, 0.9)], False),
        ([(0.5, 0.9), (0.1, 0.4)], False),
        ([(0.1, 0.4), (0.9, 0.5)], False),
        ([(math.nan, 0.4), (0.5, 0.9)], False),
        ([(0.1, 0.4), (0.5, math.inf)], False),
    ],
)
def test_times_that_cannot_be_true_are_not_used(
    tokenizer: Tokenizer, times: list[tuple[float, float]], is_sound: bool
) -> None:
    (cut,) = dummy_cuts(1, 3.0, 3.0)
    items = [AlignmentItem(word, start, end - start) for word, (start, end) in zip("AB", times, strict=True)]
    cut.supervisions = [replace(cut.supervisions[0], text="ONE TWO").with_alignment("word", items)]
    assert (fault_in_word_times(cut) is None) is is_sound
    assert bool(aligned_words(cut)) is is_sound
    pieces = times_of_pieces(cut, tokenizer.encode("ONE TWO"), tokenizer)
    assert (ANYWHERE not in pieces) is is_sound


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_say_the_times_only_when_asked(tokenizer: Tokenizer, num_workers: int) -> None:
    cuts = CutSet.from_cuts(aligned(cut) for cut in dummy_cuts(6))
    config = DataConfig(max_duration=8.0, num_buckets=2, num_workers=num_workers)
    batch = next(iter(TrainLoader(cuts, tokenizer, config, seed=0, word_times=True)))
    by_id = {cut.id: cut for cut in cuts}
    assert batch.word_times_BS2 is not None and batch.word_times_BS2.shape == (*batch.tokens_BS.shape, 2)
    for row, name in enumerate(batch.ids):
        pieces = batch.tokens_BS[row, : int(batch.token_lens_B[row])].tolist()
        expected = torch.tensor(times_of_pieces(by_id[name], pieces, tokenizer))
        assert torch.equal(batch.word_times_BS2[row, : len(pieces)], expected)
        assert math.isfinite(float(expected.max()))
    # Loaders that are left behind are to end here: in a forked worker their finalizers would fail.
    gc.collect()
    assert next(iter(TrainLoader(cuts, tokenizer, config, seed=0))).word_times_BS2 is None
    gc.collect()
    assert all(batch.word_times_BS2 is None for batch in valid_batches(cuts, tokenizer, config))


def test_a_faster_copy_has_earlier_words(tmp_path: Path) -> None:
    (cut,) = (aligned(cut) for cut in dummy_cuts(1, 3.0, 3.0, with_features=False))
    times = [start for _, start, _ in aligned_words(cut)]
    faster = [start for _, start, _ in aligned_words(cut.perturb_speed(1.25))]
    assert faster == pytest.approx([start / 1.25 for start in times], abs=1e-3)


def test_training_data_without_word_times_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"no word times.*left_buffer"):
        TrainLoader(dummy_cuts(4), tokenizer, DataConfig(), seed=0, word_times=True)
