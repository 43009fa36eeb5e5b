"""A search in one file behind the recognizer: it keeps the sure pieces of greedy search, in any chunks."""

from math import exp

import pytest
from streaming_helpers import bursts, make_recognizer
from sure_search import SureOptions, SureSearch

from kdasr.nn.context import Context
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.stream import Stream

AUDIO = bursts(4.0, 1)


def recognizer(threshold: float | None) -> StreamingRecognizer:
    """With greedy search for None."""
    found = make_recognizer(Context(left=8, chunk=4))
    if threshold is not None:
        found.search = SureSearch(found.model, SureOptions(threshold=threshold))
    return found


def listen(recognizer: StreamingRecognizer, packet: int) -> Stream:
    stream = recognizer.create_stream()
    for start in range(0, len(AUDIO), packet):
        stream.accept_waveform(16000, AUDIO[start : start + packet])
        recognizer.decode_all([stream])
    stream.input_finished()
    recognizer.decode_all([stream])
    return stream


def pieces(recognizer: StreamingRecognizer, packet: int = 1600) -> list[tuple[int, int]]:
    found = recognizer.result(listen(recognizer, packet))
    return [(token.id, token.frame) for token in found.tokens]


def test_it_keeps_what_greedy_search_is_sure_of() -> None:
    greedy = recognizer(None)
    found = greedy.search.best(listen(greedy, 1600).search_state)
    confidences = [exp(value) for value in found.log_confidences]
    threshold = sorted(confidences)[len(confidences) // 2]
    expected = [
        (piece, frame)
        for piece, frame, value in zip(found.tokens, found.frames, confidences, strict=True)
        if value >= threshold
    ]
    assert 2 < len(expected) < len(found.tokens)
    assert pieces(recognizer(threshold)) == expected
    assert pieces(recognizer(0.0)) == pieces(greedy)
    assert pieces(recognizer(1.1)) == []


@pytest.mark.parametrize("packet", [400, 5000])
def test_the_size_of_packets_changes_nothing(packet: int) -> None:
    assert pieces(recognizer(0.5), packet) == pieces(recognizer(0.5))
    whole = recognize_offline(recognizer(0.5), [AUDIO])[0]
    assert [(token.id, token.frame) for token in whole.tokens] == pieces(recognizer(0.5), packet)
