"""Live audio from a sound device, in packets."""

import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.recognition.sources import PACKET_SECONDS

log = get_logger(__name__)

Samples = NDArray[np.float32]


def microphone(device: str | int | None = None) -> Iterator[tuple[int, Samples]]:
    """Packets of one channel, `(sample rate, samples)`, until Ctrl-C or for as long as they are taken.

    They end, too, with a warning in the log, when the device stops: a microphone that is pulled out.

    The device's own rate is used, whatever it is: the recognizer converts it. Packets that come while the
    caller is busy wait in a queue. Where the machine is too busy even to queue them, PortAudio drops audio;
    that is logged, when it first happens and, in the end, how often.

    The first Ctrl-C ends the packets: those heard before it are still handed out, and the caller's work on
    one is not torn in two. A second one is a `KeyboardInterrupt` as usual; so is the first where the program
    has its own handler of SIGINT or this is not the main thread.

    Args:
        device: name (or a part of it) or number of the sound device; None: the system's default input.

    Raises:
        UserError: sounddevice or its PortAudio library is not installed, there is no such input device, or it
            does not start (another program has it).
    """
    sounddevice = _sounddevice()
    rate = _default_rate(sounddevice, device)
    heard = _Captured()
    with ExitStack() as opened:
        try:
            stream = sounddevice.InputStream(
                rate,
                round(rate * PACKET_SECONDS),
                device,
                channels=1,
                dtype="float32",
                callback=heard.callback,
                finished_callback=heard.stopped,
            )
            opened.callback(stream.close)
            stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            raise _no_microphone(device, error) from None
        opened.callback(stream.stop)
        opened.callback(heard.log_overflows)
        opened.enter_context(_interrupt_ends(heard))
        for samples in heard:
            yield rate, samples


def check_microphone(device: str | int | None = None) -> None:
    """Whether `microphone` will find the device, before anything is loaded that hears it.

    Raises:
        UserError: sounddevice or its PortAudio library is not installed, or there is no such input device.
    """
    _default_rate(_sounddevice(), device)


def _default_rate(sounddevice: ModuleType, device: str | int | None) -> int:
    """Hz."""
    try:
        return int(sounddevice.query_devices(device, "input")["default_samplerate"])
    except (sounddevice.PortAudioError, ValueError) as error:
        raise _no_microphone(device, error) from None


def _no_microphone(device: str | int | None, error: Exception) -> UserError:
    return UserError(f"no microphone '{'default' if device is None else device}': {error}")


class _Captured:
    """What the device has delivered: filled by its thread, emptied by ours."""

    def __init__(self) -> None:
        # Unlike others, this queue may be filled by a signal handler while the same thread waits for it.
        self._packets: queue.SimpleQueue[Samples | None] = queue.SimpleQueue()
        self._overflows = 0
        self._is_stopped = False

    def callback(self, samples_NC: NDArray[np.float32], frames: int, time: Any, status: Any) -> None:
        """Take a packet from PortAudio, which reuses the memory; N samples, C channels."""
        if status and status.input_overflow:
            self._overflows += 1
        self._packets.put(samples_NC[:, 0].copy())

    def end(self) -> None:
        """Let the packets end with the last one so far."""
        self._packets.put(None)

    def stopped(self) -> None:
        """The device has stopped: nothing follows."""
        self._is_stopped = True
        self.end()

    def __iter__(self) -> Iterator[Samples]:
        is_known = False
        while (samples := self._packets.get()) is not None:
            if self._overflows and not is_known:
                is_known = True
                log.warning("microphone: audio was lost, the machine is too busy (overflow)")
            yield samples
        if self._is_stopped:
            log.warning("microphone: the device has stopped")

    def log_overflows(self) -> None:
        """Say how often audio was lost, if it was."""
        if self._overflows:
            log.warning("microphone: audio was lost %d times", self._overflows)


@contextmanager
def _interrupt_ends(heard: _Captured) -> Iterator[None]:
    """Let the first Ctrl-C end what is heard instead of interrupting the program."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def ended(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        heard.end()

    signal.signal(signal.SIGINT, ended)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is ended:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _sounddevice() -> ModuleType:
    try:
        import sounddevice
    except ImportError as error:
        raise UserError(f"--mic needs the package sounddevice (pip install 'kdasr[mic]'): {error}") from None
    except OSError as error:
        raise UserError(
            f"--mic needs PortAudio, a library of the system (Debian and Ubuntu: apt install libportaudio2): "
            f"{error}"
        ) from None
    return sounddevice
