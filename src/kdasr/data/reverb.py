"""Training speech as it sounds in a room: convolved with the room's impulse response."""

# Shapes: N samples.

from pathlib import Path

import numpy as np
import torch
from lhotse import Recording, RecordingSet
from lhotse.augmentation import ReverbWithImpulseResponse
from lhotse.augmentation.utils import FastRandomRIRGenerator
from numpy.typing import NDArray
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.common.folders import find_files
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import is_audio
from kdasr.data.augment import generator_for
from kdasr.data.data_config import ReverbConfig
from kdasr.data.features import SAMPLE_RATE

log = get_logger(__name__)


class Reverb:
    """Puts some utterances into rooms, each into one: into that of a recorded response, or into a drawn one.

    What reaches the microphone directly stays where it was, so that word times hold; the level stays too. A
    transform for Lhotse's `OnTheFlyFeatures`: called with the samples of one utterance, (N,) or (1, N). Set
    `generator` before each batch.
    """

    def __init__(self, config: ReverbConfig) -> None:
        """
        Raises:
            UserError: `responses` is no folder with audio and no manifest of recordings.
        """
        self._probability = config.probability
        self.responses = None if config.responses is None else _responses(Path(config.responses))
        self.generator = generator_for(0)

    def __call__(self, samples: Tensor) -> Tensor:
        """The samples with or without a room, same shape."""
        chance = float(torch.rand(1, generator=self.generator))
        room = int(torch.randint(2**31, (1,), generator=self.generator))
        if chance >= self._probability or samples.numel() == 0:
            return samples
        if self.responses is None:
            response_N = drawn_response(room)
        else:
            response_N = _recorded(self.responses[room % len(self.responses)])
        return torch.from_numpy(in_room(samples.reshape(-1).numpy(), response_N)).view_as(samples)


def in_room(samples_N: NDArray[np.float32], response_N: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples convolved with a response, whose highest peak is the direct sound, at their own level."""
    peak = float(response_N[np.abs(response_N).argmax()]) if len(response_N) else 0.0
    if peak == 0.0 or not np.isfinite(response_N).all():
        return samples_N
    # Lhotse takes the largest value for the direct sound: some microphones are connected the wrong way round.
    response_1N = np.ascontiguousarray(response_N * np.sign(peak), dtype=np.float32)[None]
    reverb = ReverbWithImpulseResponse(rir_generator=lambda nsource: response_1N)
    return reverb(samples_N[None], SAMPLE_RATE)[0].astype(np.float32)


def drawn_response(seed: int) -> NDArray[np.float32]:
    """The response, (N,), of a random room: a function of `seed` alone, up to 0.8 s long.

    By the fast generator of Luo and Yu (2022, arXiv 2208.04101).
    """
    generator = FastRandomRIRGenerator(sr=SAMPLE_RATE, room_seed=seed, source_seed=seed + 1)
    with torch.random.fork_rng(devices=[]):  # it draws from torch's own generator, too
        torch.random.default_generator.manual_seed(seed)
        return np.asarray(generator(nsource=1)[0], dtype=np.float32)


def _recorded(response: Path | Recording) -> NDArray[np.float32]:
    """The first channel of a recorded response."""
    try:
        recording = Recording.from_file(response) if isinstance(response, Path) else response
        channel = recording.channel_ids[0] if recording.channel_ids else 0
        samples_CN = recording.resample(SAMPLE_RATE).load_audio(channels=channel)
    except Exception as error:  # every audio backend raises its own kind
        name = response if isinstance(response, Path) else response.id
        raise UserError(f"data.reverb.responses: {name} cannot be read ({first_line(error)})") from error
    return np.asarray(samples_CN[0], dtype=np.float32)


def _responses(path: Path) -> list[Path] | list[Recording]:
    """The audio files of a folder, or the recordings of a manifest."""
    found: list[Path] | list[Recording]
    name = f"data.reverb.responses: {path}"
    if path.is_dir():
        found = find_files(path, is_audio).files
    elif path.is_file():
        try:
            found = list(RecordingSet.from_file(path))
        except Exception as error:  # whatever a file that is no manifest leads to
            reason = first_line(error)
            raise UserError(f"{name}: not a Lhotse manifest of recordings ({reason})") from None
    else:
        raise UserError(f"{name}: no such folder or manifest")
    if not found:
        raise UserError(f"{name}: no recordings")
    log.info("%s: %d room impulse responses", path, len(found))
    return found
