"""The log-mel spectrogram of VGGish (Hershey et al. 2017, arXiv:1609.09430), in NumPy.

As in `mel_features.py` and `vggish_params.py` of tensorflow/models: windows of 25 ms at a hop of 10 ms, a periodic Hann window,
magnitudes of a Fourier transform of 512 points, 64 triangular bands evenly spaced on the HTK mel scale from 125 to
7,500 Hz, log(x + 0.01). A patch is 0.96 s.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from edge_af.features.video import RATE

WINDOW, HOP, POINTS = 400, 160, 512
BANDS, LOWEST_HZ, HIGHEST_HZ, OFFSET = 64, 125.0, 7500.0, 0.01
PATCH_FRAMES = 96
PATCH_SAMPLES = (PATCH_FRAMES - 1) * HOP + WINDOW
"""Samples of a patch: 15,600, 0.975 s."""


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-mel spectrogram of sound at 16 kHz: (frames, 64) float32, as many frames as fit into (n,) samples."""
    if len(samples) < WINDOW:
        return np.zeros((0, BANDS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(samples, np.float32), WINDOW)[::HOP]
    spectrum = np.abs(np.fft.rfft(frames * _window(), POINTS))
    mel: NDArray[np.float32] = np.log(spectrum.astype(np.float32) @ _bands() + np.float32(OFFSET))
    return mel


@cache
def _window() -> NDArray[np.float32]:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


def mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Convert frequencies to the HTK mel scale."""
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)


@cache
def _bands() -> NDArray[np.float32]:
    """Return the weights of the spectrum's bins in each band: (257, 64)."""
    bins = mel(np.linspace(0, RATE / 2, POINTS // 2 + 1))[:, None]
    edges = np.linspace(mel(LOWEST_HZ), mel(HIGHEST_HZ), BANDS + 2)
    low, center, high = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - low) / (center - low), (high - bins) / (high - center)))
    # The constant component belongs to no band.
    weights[0] = 0.0
    return weights.astype(np.float32)


class Patches:
    """Cuts a stream of sound into patches of 0.96 s that start a second apart."""

    def __init__(self) -> None:
        self._kept = np.zeros(0, np.float32)

    def take(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Add samples; return the log-mel spectrograms (96, 64) of the patches that are complete now."""
        self._kept = np.concatenate([self._kept, samples])
        found = []
        while len(self._kept) >= max(RATE, PATCH_SAMPLES):
            found.append(log_mel(self._kept[:PATCH_SAMPLES]))
            self._kept = self._kept[RATE:]
        return found

    def end(self) -> list[NDArray[np.float32]]:
        """Return the last patch, padded with silence, if at least half of it is there."""
        if len(self._kept) < PATCH_SAMPLES // 2:
            return []
        kept, self._kept = self._kept, np.zeros(0, np.float32)
        return [log_mel(np.pad(kept[:PATCH_SAMPLES], (0, max(0, PATCH_SAMPLES - len(kept)))))]
