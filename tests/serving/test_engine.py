"""Chunks that come one after another within a moment are decoded together, where there are many streams."""

from collections.abc import Sequence
from typing import Any

import pytest
from streaming_helpers import bursts, make_recognizer

from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.serving import engine as engine_module
from kdasr.serving.engine import Engine, ServedAudio
from kdasr.serving.lane import ServedModel
from kdasr.serving.limits import Limits
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
