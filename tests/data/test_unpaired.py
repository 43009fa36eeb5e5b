"""Speech without transcripts: nothing of them is left, and its batches take their turns."""

from collections.abc import Iterator
from typing import Any

import pytest
from lhotse import CutSet

from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.data.data_config import DataConfig
from kdasr.data.loader import TrainLoader
from kdasr.data.pace import Pace
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.unpaired import InterleavedBatches, without_transcripts
from kdasr.testing import dummy_batch, dummy_cuts


class Numbered:
    """Batches whose first name says which stream and which number."""

    def __init__(self, name: str) -> None:
        self.name, self.number = name, 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = dummy_batch(batch_size=1)
        batch.ids = [f"{self.name}{self.number}"]
        self.number += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def interleaved(ratio: int = 4, accumulate: int = 1) -> InterleavedBatches:
    return InterleavedBatches(Numbered("p"), Numbered("u"), ratio, accumulate)


def take(source: InterleavedBatches, count: int) -> list[str]:
    batches = [next(source) for _ in range(count)]
    assert all(batch.paired == batch.ids[0].startswith("p") for batch in batches)
    return [batch.ids[0] for batch in batches]


def test_one_paired_step_then_the_unpaired_ones() -> None:
    assert take(interleaved(), 7) == ["p0", "u0", "u1", "u2", "u3", "p1", "u4"]
    assert take(interleaved(1, accumulate=2), 6) == ["p0", "p1", "u0", "u1", "p2", "p3"]


def test_a_batch_stays_unpaired_on_its_way_to_a_device() -> None:
    source = interleaved()
    assert [next(source).to("cpu").paired for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("stop", range(7))
def test_the_stream_goes_on_where_it_stood(stop: int) -> None:
    whole, first, second = interleaved(2), interleaved(2), interleaved(2)
    begun = take(first, stop)
    second.load_state_dict(first.state_dict())
    assert begun + take(second, 9 - stop) == take(whole, 9)


def test_a_joint_step_has_an_epoch_of_the_paired_data_and_the_hours_of_both() -> None:
    """A batch of 0.01 h with a transcript and two of 0.02 h without."""
    pace = Pace(100.0, 0.01).interleaved(Pace(300.0, 0.02), 2).of_steps(3)
    assert pace == pytest.approx((100.0, 0.05))


def test_another_rhythm_is_refused() -> None:
    state = interleaved(2).state_dict()
    with pytest.raises(UserError, match="ratio was 2 and is 3 now"):
        interleaved(3).load_state_dict(state)
    with pytest.raises(UserError, match=r"unpaired\.ratio 0"):
        interleaved(0)


def test_no_transcript_reaches_a_batch(tokenizer: Tokenizer) -> None:
    """Neither of cuts that have one nor of cuts without any supervision; the rest of a cut stays."""
    told = list(dummy_cuts(3))
    told[2].supervisions = []
    cuts, transcripts = without_transcripts(CutSet.from_cuts(told))
    assert transcripts == {cut.id: cut.supervisions[0].text for cut in told[:2]}
    assert [cut.duration for cut in cuts] == [cut.duration for cut in told]
    assert [cut.supervisions[0].speaker for cut in cuts] == ["dummy", "dummy", None]
    batch = next(TrainLoader(cuts, tokenizer, DataConfig(num_buckets=1), seed=1))
    assert sorted(batch.ids) == [cut.id for cut in told]
    assert batch.texts == [""] * 3 and not batch.token_lens_B.any() and batch.tokens_BS.shape == (3, 0)
    assert told[0].supervisions[0].text
