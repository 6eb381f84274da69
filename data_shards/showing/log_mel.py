"""Log-mel spectrograms with one column per frame of the speech feature encoder, for pictures and baselines."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from data_shards.batch import FRAME_STRIDE, RECEPTIVE_FIELD, SampleBatch

MELS = 64
_FFT = 1024  # length to which windows are padded, so that the narrowest filter contains a frequency
_NYQUIST = 8000.0
_FLOOR = 1e-5  # least power; normalised speech has a mean power of 1 per sample


def log_mel(batch: SampleBatch) -> Tensor:
    """Spectrograms float32 [B, T, MELS] of speech normalised by its recording; arbitrary beyond a clip's end."""
    assert batch.scale is not None
    mean, scale = batch.scale.float().split(1, dim=1)
    waveform = (batch.inputs.float() - mean) * scale
    windows = waveform.unfold(1, RECEPTIVE_FIELD, FRAME_STRIDE) * torch.hann_window(RECEPTIVE_FIELD)
    power = torch.fft.rfft(windows, n=_FFT).abs().square() / RECEPTIVE_FIELD
    return (power @ _filters()).clamp(min=_FLOOR).log()


@functools.cache
def _filters() -> Tensor:
    """Filters float32 [frequencies, MELS]: triangles of equal width in mel (HTK's formula)."""
    top = _mel(torch.tensor(_NYQUIST))
    mels = _mel(torch.linspace(0, _NYQUIST, _FFT // 2 + 1))
    distance = (mels[:, None] * (MELS + 1) / top - torch.arange(1, MELS + 1)).abs()
    return (1 - distance).clamp(min=0)


def _mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)
