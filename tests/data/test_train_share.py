"""A share of the training utterances: about as many as it says, the same ones, all speeds together."""

import pytest
from lhotse import AudioSource, CutSet, Recording
from lhotse.cut import MonoCut

from kdasr.data.copies import copy_at
from kdasr.data.cut_table import MemoryTable
from kdasr.data.data_config import DataConfig
from kdasr.data.loader import TrainLoader
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.train_share import in_share
from kdasr.testing import dummy_cuts


def named(number: int, speed: float = 1.0) -> MonoCut:
    name = f"utt-{number:04d}{'_sp1' if number % 7 == 0 else ''}"  # some look like copies
    whole = Recording(name, [AudioSource("file", [0], "a.wav")], 16000, 16000, 1.0)
    return copy_at(MonoCut(name, 0.0, 1.0, 0, recording=whole), speed)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_has_about_as_many_and_a_larger_one_has_them_too(share: float) -> None:
    chosen = {number for number in range(2000) if in_share(named(number), share)}
    assert len(chosen) == pytest.approx(2000 * share, abs=70)  # three standard deviations
    assert chosen <= {number for number in range(2000) if in_share(named(number), share + 0.05)}
    assert all(in_share(named(number), 1.0) for number in range(50))
    for speed in (0.9, 1.1, 2.0):
        assert chosen == {number for number in range(2000) if in_share(named(number, speed), share)}


def test_training_has_the_utterances_of_the_share_alone(tokenizer: Tokenizer) -> None:
    cuts = list(dummy_cuts(12))
    expected = {cut.id for cut in cuts if in_share(cut, 0.5)}
    config = DataConfig(num_buckets=1, train_share=0.5, max_duration=4.0)
    loader = TrainLoader(MemoryTable(CutSet.from_cuts(cuts)), tokenizer, config, seed=1)
    heard: set[str] = set()
    while loader.epoch == 0:
        heard |= set(next(loader).ids)
    assert heard == expected and 0 < len(expected) < 12
