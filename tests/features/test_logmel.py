"""The log-mel spectrogram agrees with an independent float64 computation and with TensorFlow's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_af.features.logmel import BANDS, PATCH_FRAMES, PATCH_SAMPLES, Patches, log_mel
from edge_af.features.video import RATE


def signal(seconds: float = 2.0) -> NDArray[np.float32]:
    """A rising tone, noise and a click."""
    t = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).normal(0, 0.01, len(t))
    values = 0.4 * np.sin(2 * np.pi * (200 + 1500 * t) * t) + noise
    values[len(t) // 3] = 1.0
    return values.astype(np.float32)


def reference(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the spectrogram in float64, frame by frame, with a Fourier sum and triangles drawn by interpolation."""
    window = np.array([0.5 - 0.5 * np.cos(2 * np.pi * n / 400) for n in range(400)])
    matrix = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    mels = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    bands = np.array([np.interp(mels, edges[n : n + 3], [0, 1, 0]) for n in range(64)])
    bands[:, 0] = 0
    rows = []
    for start in range(0, len(samples) - 399, 160):
        magnitudes = np.abs(matrix @ (samples[start : start + 400].astype(np.float64) * window))
        rows.append(np.log(bands @ magnitudes + 0.01))
    return np.array(rows)


def test_it_agrees_with_float64():
    found, wanted = log_mel(signal()), reference(signal())
    assert found.shape == wanted.shape == (198, BANDS)
    assert np.abs(found - wanted).max() < 2e-4


def test_it_agrees_with_a_published_implementation():
    tf = pytest.importorskip("tensorflow", reason="compares with tf.signal")
    samples = signal()
    spectrum = tf.abs(tf.signal.stft(samples, 400, 160, 512, tf.signal.hann_window))
    bands = tf.signal.linear_to_mel_weight_matrix(BANDS, 257, RATE, 125.0, 7500.0)
    wanted = tf.math.log(spectrum @ bands + 0.01).numpy()
    assert np.abs(log_mel(samples) - wanted).max() < 1e-3


def test_silence_and_too_few_samples():
    assert np.allclose(log_mel(np.zeros(RATE, np.float32)), np.log(0.01))
    assert log_mel(np.zeros(399, np.float32)).shape == (0, BANDS)


def test_patches_start_a_second_apart_however_the_sound_is_cut():
    samples = signal(3.6)
    whole = [log_mel(samples[n * RATE : n * RATE + PATCH_SAMPLES]) for n in range(3)]
    last = log_mel(np.pad(samples[3 * RATE :], (0, PATCH_SAMPLES - len(samples[3 * RATE :]))))
    for size in (1, 997, 1024, 50_000):
        if size == 1:
            cut = [samples[:20_000], *np.split(samples[20_000:20_100], 100), samples[20_100:]]
        else:
            cut = [samples[start : start + size] for start in range(0, len(samples), size)]
        patches, found = Patches(), []
        for part in cut:
            found += patches.take(part)
        found += patches.end()
        assert len(found) == 4
        assert all(patch.shape == (PATCH_FRAMES, BANDS) for patch in found)
        assert all(np.array_equal(a, b) for a, b in zip(found, [*whole, last], strict=True))
    short = Patches()
    assert short.take(samples[: PATCH_SAMPLES // 2 - 1]) == short.end() == []
