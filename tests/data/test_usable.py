"""Utterances a transducer cannot be trained on are named, with the reason."""

import logging

import pytest
import torch

from kdasr.data.data_config import DataConfig
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import report_unusable
from kdasr.testing import dummy_cuts, tiny_config

num_encoder_frames = tiny_config().geometry.num_frames


def test_encoder_frames_are_those_of_the_front_end() -> None:
    assert [num_encoder_frames(4 * count + 3) for count in range(5)] == [0, 1, 2, 3, 4]
    lens = torch.arange(60)
    # Two convolutions of 3 frames with stride 2, without padding.
    assert num_encoder_frames(lens).tolist() == [max(0, ((n - 1) // 2 - 1) // 2) for n in lens.tolist()]


def test_each_reason_is_counted_and_named(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    cuts = list(dummy_cuts(6, min_seconds=1.0, max_seconds=1.0, with_features=False))
    cuts[1] = cuts[1].truncate(duration=0.2)
    cuts[2].supervisions[0].text = " ".join(["SEVEN"] * 40)
    cuts[3].supervisions[0].text = ""
    cuts[4].supervisions[0].text = "QUIZ"
    cuts[5].supervisions[0].text = "ONE <blk> TWO"
    config = DataConfig(min_seconds=0.3, max_seconds=0.9)
    with caplog.at_level(logging.WARNING, logger="kdasr"):
        usable, unusable = report_unusable(cuts, tokenizer, config, num_encoder_frames)  # type: ignore[arg-type]
    assert (len(usable), len(unusable)) == (0, 6)
    with caplog.at_level(logging.WARNING, logger="kdasr"):
        usable, unusable = report_unusable(cuts, tokenizer, DataConfig(min_seconds=0.3), num_encoder_frames)  # type: ignore[arg-type]
    assert [cut.id for cut in usable] == ["cut-0000", "cut-0003", "cut-0004"]
    assert {item.id: item.reason.partition(" (")[0] for item in unusable} == {
        cuts[1].id: "shorter than 0.3 s",
        "cut-0002": "fewer encoder frames than pieces",
        "cut-0005": "special symbols in the transcript",
    }
    assert "5 of 6 utterances left out, longer than 0.9 s: cut-0000" in caplog.text
    assert "1 of 6 utterances left out, shorter than 0.3 s" in caplog.text
    assert "1 of 6 transcripts have characters unknown to" in caplog.text


def test_as_many_pieces_as_frames_is_the_limit(tokenizer: Tokenizer) -> None:
    (cut,) = dummy_cuts(1, min_seconds=0.51, max_seconds=0.51, with_features=False)
    assert num_encoder_frames(51) == 12
    outcomes = {}
    for count in range(1, 14):
        cut.supervisions[0].text = " ".join(["ONE"] * count)
        usable, _ = report_unusable([cut], tokenizer, DataConfig(), num_encoder_frames)  # type: ignore[arg-type]
        outcomes[len(tokenizer.encode(cut.supervisions[0].text))] = len(usable) == 1
    assert 12 in outcomes
    assert outcomes == {pieces: pieces <= 12 for pieces in outcomes}
    assert not all(outcomes.values())


def test_all_usable_says_nothing(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="kdasr"):
        usable, unusable = report_unusable(dummy_cuts(3, with_features=False), tokenizer, DataConfig())
    assert (len(usable), unusable, caplog.text) == (3, [], "")
