"""Live audio from a sound device, in packets."""

import queue
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.streaming.simulate import PACKET_SECONDS


def microphone(device: str | int | None = None) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Packets of one channel, `(sample rate, samples)`, for as long as the caller takes them.

    The device's own rate is used, whatever it is: the recogniser converts it. Packets that come while the
    caller is busy wait in a queue, so none is lost.

    Args:
        device: name (or a part of it) or number of the sound device; None: the system's default input.

    Raises:
        UserError: sounddevice or its PortAudio library is not installed, or there is no such input device.
    """
    sounddevice = _sounddevice()
    try:
        rate = int(sounddevice.query_devices(device, "input")["default_samplerate"])
        packets: queue.SimpleQueue[NDArray[np.float32]] = queue.SimpleQueue()

        def arrived(samples: NDArray[np.float32], *_: Any) -> None:
            packets.put(samples[:, 0].copy())

        stream = sounddevice.InputStream(
            rate, round(rate * PACKET_SECONDS), device, channels=1, dtype="float32", callback=arrived
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(f"no microphone '{device or 'default'}': {error}") from None
    with stream:
        while True:
            yield rate, packets.get()


def _sounddevice() -> ModuleType:
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        # OSError: the package is there, the PortAudio library is not.
        raise UserError(f"--mic needs the sounddevice package and PortAudio: {error}") from None
    return sounddevice
