"""Chunks that come one after another within a moment are decoded together, where there are many streams."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from streaming_helpers import bursts, make_recognizer

from kdasr.decoding.search import BeamOptions
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.serving import engine as engine_module
from kdasr.serving.engine import Engine, ServedAudio, Taken
from kdasr.serving.lane import Arrivals, Lane, ServedModel
from kdasr.serving.limits import Limits
from kdasr.serving.messages import V1Replies
from kdasr.serving.metrics import Metrics


@pytest.mark.parametrize(("streams", "batches"), [(32, [32]), (31, [1])])
def test_many_streams_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, streams: int, batches: list[int]
) -> None:
    recognizer = make_recognizer(Context(left=8, chunk=4), endpoints=EndpointRules())
    model = ServedModel("model", recognizer)
    engine = Engine([model], Limits(), Metrics(["model"]))
    audios = [ServedAudio([model], 16000, lambda _: None) for _ in range(streams)]
    chunk, decoded, waited = bursts(0.3, 1), [], []

    def sleep(seconds: float) -> None:
        """The audio of the others comes while the engine waits."""
        waited.append(seconds)
        for audio in audios[1:]:
            engine.push(audio, chunk)

    def decode(batch: Sequence[Any]) -> list[Any]:
        """Notes how many there are, and ends the engine's work."""
        decoded.append(len(batch))
        for audio, _ in batch:
            engine.close(audio)
        engine.stop(timeout=0)
        return []

    monkeypatch.setattr(engine_module.time, "sleep", sleep)
    monkeypatch.setattr(engine, "_decode", decode)
    monkeypatch.setattr(engine._thread, "join", lambda _: None)
    for audio in audios:
        engine.open(audio)
    engine.push(audios[0], chunk)
    engine._run()
    assert decoded == batches
    assert waited == ([pytest.approx(model.chunk_seconds / 32)] if batches == [32] else [])


@pytest.mark.parametrize("packet", [160, 4000, 80_000])
def test_a_round_takes_a_chunk_whatever_the_packets(packet: int) -> None:
    model = ServedModel("model", make_recognizer(Context(left=8, chunk=4)))
    engine = Engine([model], Limits(), Metrics(["model"]))
    audio, wave = ServedAudio([model], 16000, lambda _: None), bursts(5.0, 1)
    engine._open(audio)
    for start in range(0, len(wave), packet):
        engine._push(audio, wave[start : start + packet], 0.0)
    ((_, event),) = engine._feed(audio)
    needed = 0.01 * model.recognizer.geometry.window_features(4) + 0.0075
    assert isinstance(event, Taken) and audio.is_behind
    assert needed <= event.seconds <= min(0.5, needed + packet / 16000)
    assert event.seconds == audio.lanes[0].live.stream.seconds
    assert engine._feed(audio) == []


@pytest.mark.parametrize("rules", [None, EndpointRules(60.0, 60.0, 0.5)], ids=["one", "many"])
def test_a_piece_keeps_the_latency_with_which_it_was_first_shown(rules: EndpointRules | None) -> None:
    recognizer = make_recognizer(
        Context(left=8, chunk=4), endpoints=rules, search=BeamOptions(beam=4, blank_penalty=0.5)
    )
    lane, wave = Lane(ServedModel("model", recognizer), Arrivals()), bursts(8.0, 3)
    pieces: list[tuple[int, float]] = []
    latencies: list[float] = []
    revised = 0
    for start in range(0, len(wave), 1600):
        lane.accept(16000, wave[start : start + 1600])
        while lane.live.is_ready:
            lane.begin_chunk()
            recognizer.decode_streams([lane.live.stream])
            update = lane.report(0.0)
            shown = [(token.id, token.shown) for token in update.heard.result.tokens]
            assert len(update.latencies) == len(shown) and update.is_changed == (shown != pieces)
            kept = [
                place for place, pair in enumerate(zip(pieces, shown, strict=False)) if pair[0] == pair[1]
            ]
            assert [update.latencies[place] for place in kept] == [latencies[place] for place in kept]
            revised += len(kept) < len(pieces)
            pieces, latencies = ([], []) if update.heard.is_final else (shown, update.latencies)
    assert revised


def test_nothing_changes_a_word_that_is_called_final() -> None:
    """In beam search a word that is settled to its last piece may still get another one."""
    recognizer = make_recognizer(Context(left=8, chunk=4), search=BeamOptions(beam=4, blank_penalty=0.5))
    lane, wave = Lane(ServedModel("model", recognizer), Arrivals()), bursts(8.0, 3)
    final: list[str] = []
    for start in range(0, len(wave), 1600):
        lane.accept(16000, wave[start : start + 1600])
        while lane.live.is_ready:
            lane.begin_chunk()
            recognizer.decode_streams([lane.live.stream])
            words = json.loads(V1Replies().update(lane.report(0.0)) or "{}").get("words")
            if words is None:
                continue
            assert [word["word"] for word in words][: len(final)] == final
            assert [word["final"] for word in words] == sorted((w["final"] for w in words), reverse=True)
            final = [word["word"] for word in words if word["final"]]
    assert len(final) > 9
