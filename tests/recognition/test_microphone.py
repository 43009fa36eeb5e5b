"""The microphone, with a stand-in for the sound library: this machine may have neither."""

import logging
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdasr.common.errors import UserError
from kdasr.recognition.microphone import microphone


class PortAudioError(Exception):
    pass


class FakeStream:
    """Calls back with three packets as soon as it is started; "slow" loses audio before the last two, and
    "unplugged" stops after them."""

    def __init__(self, rate: int, blocksize: int, device: object, *, callback: Any, **options: Any) -> None:
        self.packets = [np.full((blocksize, 1), value, dtype=np.float32) for value in (0.1, 0.2, 0.3)]
        self.callback, self.device, self.calls = callback, device, [""]
        self.finished = options["finished_callback"]
        self.lost = [False, device == "slow", device == "slow"]

    def start(self) -> None:
        if self.device == "busy":
            raise PortAudioError("Error starting stream: Device unavailable [PaErrorCode -9985]")
        self.calls.append("start")
        for packet, lost in zip(self.packets, self.lost, strict=True):
            self.callback(packet, len(packet), None, SimpleNamespace(input_overflow=lost))
            packet[:] = 9.0  # the library reuses its buffer
        if self.device == "unplugged":
            self.finished()

    def stop(self) -> None:
        self.calls.append("stop")
        self.finished()

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[FakeStream]:
    """The streams that have been opened."""
    opened: list[FakeStream] = []
    module = ModuleType("sounddevice")

    def open_stream(*arguments: Any, **options: Any) -> FakeStream:
        opened.append(FakeStream(*arguments, **options))
        return opened[-1]

    def query_devices(device: object, kind: str) -> dict[str, float]:
        if device == "nothing":
            raise ValueError("No input device matching 'nothing'")
        return {"default_samplerate": 44100.0}

    module.InputStream, module.query_devices = open_stream, query_devices  # type: ignore[attr-defined]
    module.PortAudioError = PortAudioError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return opened


@pytest.fixture(autouse=True)
def python_handles_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # it is always put back
    signal.signal(signal.SIGINT, before)


def test_packets_at_the_devices_rate_in_order(streams: list[FakeStream]) -> None:
    packets = microphone()
    received = list(islice(packets, 3))
    assert [(rate, len(samples), float(samples[0])) for rate, samples in received] == [
        (44100, 4410, pytest.approx(0.1)),
        (44100, 4410, pytest.approx(0.2)),
        (44100, 4410, pytest.approx(0.3)),
    ]
    packets.close()  # type: ignore[attr-defined]
    assert streams[0].calls == ["", "start", "stop", "close"]


def test_the_first_interrupt_ends_after_the_last_packet(
    streams: list[FakeStream],
) -> None:
    packets = microphone()
    received = [next(packets)]
    try:
        signal.raise_signal(signal.SIGINT)  # while the caller is at work on the first packet
    except KeyboardInterrupt:  # it would end the tests
        pytest.fail("the first interrupt was not caught")
    streams[0].callback(np.ones((4410, 1), np.float32), 4410, None, None)  # heard after it
    received += packets
    assert [float(samples[0]) for _, samples in received] == pytest.approx([0.1, 0.2, 0.3])
    assert streams[0].calls[-1] == "close"
    packets = microphone()
    next(packets)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    packets.close()  # type: ignore[attr-defined]


def test_the_programs_own_handler_of_interrupts_stays(streams: list[FakeStream]) -> None:
    caught: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    packets = microphone()
    next(packets)
    signal.raise_signal(signal.SIGINT)
    assert caught == [signal.SIGINT]
    packets.close()  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_lost_audio_is_said_once_and_counted_in_the_end(
    streams: list[FakeStream], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("kdasr"), "propagate", True)
    for device, expected in ((None, []), ("slow", ["was lost, the machine", "was lost 2 times"])):
        caplog.clear()
        packets = microphone(device)
        list(islice(packets, 3))
        packets.close()  # type: ignore[attr-defined]
        assert len(caplog.messages) == len(expected)
        assert all(part in text for part, text in zip(expected, caplog.messages, strict=True))


def test_a_device_that_stops_ends_the_packets(
    streams: list[FakeStream], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("kdasr"), "propagate", True)
    assert len(list(microphone("unplugged"))) == 3
    assert caplog.messages == ["microphone: the device has stopped"]
    assert streams[0].calls[-1] == "close"
    caplog.clear()
    packets = microphone()
    next(packets)
    signal.raise_signal(signal.SIGINT)
    assert len(list(packets)) == 2
    assert caplog.messages == []


def test_an_absent_or_busy_device_or_library_is_said(
    streams: list[FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no microphone 'nothing'.*No input device"):
        next(microphone("nothing"))
    with pytest.raises(UserError, match=r"no microphone 'busy'.*Device unavailable"):
        next(microphone("busy"))
    assert streams[0].calls == ["", "close"]
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="sounddevice"):
        next(microphone())
