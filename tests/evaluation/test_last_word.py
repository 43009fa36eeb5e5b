"""The silence that ends a stream: enough for the last word, no more, and the same whole as streamed."""

from math import ceil

import numpy as np
import pytest
from numpy.typing import NDArray
from tone_spotter import WORDS, Spotter, make_spotter, spoken

from kdasr.common.errors import UserError
from kdasr.decoding.search import BeamOptions, SearchOptions
from kdasr.nn.context import Context
from kdasr.recognition.flush import flush_seconds
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import Result

CONTEXTS = [Context(left=8, chunk=4), Context(left=6, chunk=3, right=2), Context(left=4, chunk=1, right=4)]

Part = list[tuple[list[str], NDArray[np.float32]]]


def _part() -> Part:
    """Recordings that end where their last word does, at every place within an encoder frame."""
    generator = np.random.default_rng(5)
    part = []
    for number in range(16):
        words = generator.integers(len(WORDS), size=generator.integers(1, 4)).tolist()
        samples = [*[3200, 2400, 4000][: len(words) - 1], 2400 + 40 * number]
        part.append(([WORDS[word] for word in words], spoken(words, samples)))
    return part


def _streamed(engine: StreamingRecognizer, wave: NDArray[np.float32]) -> Result:
    stream = engine.create_stream()
    for start in range(0, len(wave), 1600):
        stream.accept_waveform(16000, wave[start : start + 1600])
        engine.decode_all([stream])
    stream.input_finished()
    engine.decode_all([stream])
    return engine.result(stream)


def _recall(results: list[Result], part: Part) -> float:
    """Share of the recordings whose last word was recognized as the last."""
    pairs = zip(results, part, strict=True)
    return sum(bool(r.words) and r.words[-1].text == words[-1] for r, (words, _) in pairs) / len(part)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("search", [None, BeamOptions()], ids=["greedy", "beam"])
def test_the_last_word_is_heard_streamed_as_whole(context: Context, search: SearchOptions | None) -> None:
    part = _part()
    for tail_seconds in (None, 0.0, flush_seconds(context, Spotter().geometry) - 0.04):
        engine = make_spotter(context, tail_seconds=tail_seconds, search=search)
        streamed = [_streamed(engine, wave) for _, wave in part]
        whole = recognize_offline(engine, [wave for _, wave in part])
        assert [result.text for result in streamed] == [result.text for result in whole]
        recall = _recall(streamed, part)
        assert _recall(whole, part) == recall
        if tail_seconds is None:
            assert recall == 1.0
            assert [result.text.split() for result in streamed] == [words for words, _ in part]
        else:
            assert recall < 1.0  # with one frame less, words that end late in a frame are lost


@pytest.mark.parametrize("context", [*CONTEXTS, Context(8, 4, 3), Context.full()], ids=str)
def test_no_more_silence_is_decoded_than_the_context_needs(context: Context) -> None:
    engine = make_spotter(context)
    for num_samples in (800, 16000, 16080, 16479, 16560):
        stream = engine.create_stream()
        stream.accept_waveform(16000, np.zeros(num_samples, np.float32))
        stream.input_finished()
        engine.decode_all([stream])
        speech = (num_samples + 80) // 160
        extra = 8 if context.is_full else 12 + 4 * context.right  # feature frames of 10 ms
        assert stream.num_decoded == ceil((speech + extra) / 4)


def test_silence_at_the_end_may_be_chosen() -> None:
    geometry = Spotter().geometry
    assert flush_seconds(Context(8, 4), geometry) == pytest.approx(0.12)
    assert flush_seconds(Context(8, 4, 2), geometry) == pytest.approx(0.2)
    assert flush_seconds(Context.full(), geometry) == pytest.approx(0.08)
    assert make_spotter(Context(8, 4)).tail_seconds == flush_seconds(Context(8, 4), geometry)
    assert make_spotter(Context(8, 4), tail_seconds=0.5).tail_seconds == 0.5
    with pytest.raises(UserError, match="tail_seconds -1"):
        make_spotter(Context(8, 4), tail_seconds=-1.0)
