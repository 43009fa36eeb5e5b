"""The microphone, with a stand-in for the sound library: this machine may have neither."""

import sys
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kdasr.common.errors import UserError
from kdasr.streaming.microphone import microphone


class PortAudioError(Exception):
    pass


class FakeStream:
    """Calls back with three packets of two channels as soon as it is started."""

    def __init__(self, rate: int, blocksize: int, device: object, *, callback: Any, **_: object) -> None:
        self.packets = [np.full((blocksize, 1), value, dtype=np.float32) for value in (0.1, 0.2, 0.3)]
        self.callback, self.closed = callback, False

    def __enter__(self) -> "FakeStream":
        for packet in self.packets:
            self.callback(packet, len(packet), None, None)
            packet[:] = 9.0  # the library reuses its buffer
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


def install(monkeypatch: pytest.MonkeyPatch, streams: list[FakeStream]) -> None:
    module = ModuleType("sounddevice")

    def open_stream(*arguments: Any, **options: Any) -> FakeStream:
        streams.append(FakeStream(*arguments, **options))
        return streams[-1]

    def query_devices(device: object, kind: str) -> dict[str, float]:
        if device == "nothing":
            raise ValueError("No input device matching 'nothing'")
        return {"default_samplerate": 44100.0}

    module.InputStream, module.query_devices = open_stream, query_devices  # type: ignore[attr-defined]
    module.PortAudioError = PortAudioError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def test_packets_at_the_devices_rate_none_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[FakeStream] = []
    install(monkeypatch, streams)
    packets = microphone()
    received = list(islice(packets, 3))
    assert [(rate, len(samples), float(samples[0])) for rate, samples in received] == [
        (44100, 4410, pytest.approx(0.1)),
        (44100, 4410, pytest.approx(0.2)),
        (44100, 4410, pytest.approx(0.3)),
    ]
    packets.close()  # type: ignore[attr-defined]
    assert streams[0].closed


def test_an_absent_device_or_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [])
    with pytest.raises(UserError, match=r"no microphone 'nothing'.*No input device"):
        next(microphone("nothing"))
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="sounddevice"):
        next(microphone())
