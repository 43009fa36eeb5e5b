"""Speech for those who have no microphone at hand, from the synthesizer that made the demo's corpus."""

import numpy as np

from kdasr.corpora.synthetic.espeak import Synthesizer, Voice
from kdasr.data.features import SAMPLE_RATE
from kdasr.recognition.audio import Samples
from kdasr.recognition.resample import resample

SENTENCES = ("Many captains repaired two yellow baskets.", "Two silver flowers.")
"""In the demo's vocabulary."""
_VOICE = Voice("gmw/en-US")
_PAUSE_SECONDS, _NOISE = 1.8, 1e-4


def example_speech() -> tuple[Samples, int]:
    """Two sentences with a pause between them that is long enough for an endpoint, and their sample rate.

    Raises:
        UserError: espeak-ng is missing.
    """
    synthesizer, generator = Synthesizer(), np.random.default_rng(0)
    pieces = []
    for sentence in SENTENCES:
        speech = synthesizer.speak(sentence, _VOICE)
        pieces += [resample(speech.samples_N, speech.sample_rate, SAMPLE_RATE)]
        pieces += [np.zeros(round(_PAUSE_SECONDS * SAMPLE_RATE), dtype=np.float32)]
    samples = np.concatenate(pieces)
    noise = _NOISE * generator.standard_normal(len(samples))
    return (samples + noise).clip(-1, 1).astype(np.float32), SAMPLE_RATE
