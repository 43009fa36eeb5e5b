"""Log-mel energies as NeMo's `AudioToMelSpectrogramPreprocessor` computes them before it normalizes them.

Shapes: N samples, T feature frames (10 ms), F mel bins, Q frequencies.
"""

from functools import cache

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from kdasr.common.feature_frames import FRAME_LENGTH_SECONDS, FRAME_SHIFT_SECONDS

SAMPLE_RATE = 16000
NUM_MEL_BINS = 80
PREEMPHASIS = 0.97
FFT_SIZE = 512
LOG_GUARD = 2.0**-24
"""Added to energies before their logarithm, so that silence has one."""
_SHIFT = round(SAMPLE_RATE * FRAME_SHIFT_SECONDS)
_LENGTH = round(SAMPLE_RATE * FRAME_LENGTH_SECONDS)


def nemo_log_mel(samples_N: Tensor) -> Tensor:
    """Log-mel energies (T, 80), float32, of float samples in [-1, 1] at 16 kHz: a frame per 160 samples.

    Preemphasis of 0.97; Hann windows of 25 ms, each around a multiple of 10 ms, with zeros before and after
    the signal; slaney's mel scale from 0 to 8 kHz with bins of equal area. NeMo adds noise of 1e-5 in
    training, which is left out here.
    """
    num_frames = samples_N.numel() // _SHIFT
    if num_frames == 0:
        return torch.zeros(0, NUM_MEL_BINS)
    emphasized_N = torch.cat([samples_N[:1], samples_N[1:] - PREEMPHASIS * samples_N[:-1]])
    spectrum_QT = torch.stft(
        emphasized_N,
        FFT_SIZE,
        hop_length=_SHIFT,
        win_length=_LENGTH,
        window=torch.hann_window(_LENGTH, periodic=False),
        pad_mode="constant",
        return_complex=True,
    )
    power_TQ = spectrum_QT.abs().square().T[:num_frames]
    return torch.log(power_TQ @ _mel_bins() + LOG_GUARD)


@cache
def _mel_bins() -> Tensor:
    """(Q, F)."""
    return melscale_fbanks(
        n_freqs=FFT_SIZE // 2 + 1,
        f_min=0.0,
        f_max=SAMPLE_RATE / 2,
        n_mels=NUM_MEL_BINS,
        sample_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
