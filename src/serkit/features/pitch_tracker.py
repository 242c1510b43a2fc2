"""A pitch tracker: normalised cross-correlation, then the cheapest path through its peaks.

The idea is that of RAPT ("A robust algorithm for pitch tracking", in Speech Coding and Synthesis,
1995): in every frame the sound is correlated with itself one period apart, the peaks of that
function are candidates, and dynamic programming chooses among them and "unvoiced" so that pitch and
voicing change seldom. What differs:

1. One stage at the full sample rate instead of a coarse and a fine one: the correlations of many
   frames are one Fourier transform, and a parabola through three points places a peak between lags.
2. A frame is correlated with the sound one period later *and* one period earlier and the two are
   averaged, so what is found belongs to the centre of the frame.
3. A band-pass filter comes first: noise lies mostly above the strongest harmonics.
4. A jump costs in proportion to its interval; an octave is no exception.

The constants were chosen on synthetic speech of known pitch; ``docs/pitch.md`` judges them on other
such speech and on recordings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import butter, sosfiltfilt

from serkit.audio import seconds_to_samples

__all__ = ["nccf_f0"]

Floats = NDArray[np.float64]

BAND_HZ = 1_200.0  # upper edge of what is correlated; the lower is half the lowest pitch
WINDOW_S = 0.020
QUIET = 0.04  # amplitude, relative to the loudest window's, at which a correlation counts 0.7
SILENT = 1e-6  # amplitude likewise, whatever else sounds: what rounding leaves is no voice
N_CANDIDATES = 8  # per frame
WEAKEST_PEAK = 0.3  # correlation
LONG_LAG_COST = 0.3  # taken off the longest lag's correlation: multiples of a period are as high
UNVOICED_COST = 0.55  # of a frame; a voiced one costs 1 - correlation
VOICING_COST = 0.25  # of each beginning and end of a voiced stretch
INTERVAL_COST = 0.5  # per octave between neighbouring frames
FRAMES_AT_ONCE = 32  # small enough for a CPU core's caches


def nccf_f0(
    waveform: NDArray[np.floating],
    sample_rate: int,
    *,
    f_min_hz: float,
    f_max_hz: float,
    hop_length: int,
) -> Floats:
    """Track the fundamental frequency.

    Parameters
    ----------
    waveform : (n_samples,), at least one
    sample_rate
        Hz.
    f_min_hz, f_max_hz
        The range that is searched.
    hop_length
        Samples from one frame to the next; the first is centred on sample 0.

    Returns
    -------
    f0_hz : (n_samples // hop_length + 1,), 0 in unvoiced frames
    """
    band = butter(2, (f_min_hz / 2, BAND_HZ), "bandpass", fs=sample_rate, output="sos")
    usual_padding = 3 * (2 * len(band) + 1)
    signal = np.asarray(waveform, dtype=np.float64)
    signal = sosfiltfilt(band, signal, padlen=min(usual_padding, len(signal) - 1))
    lags, correlation = _candidates(
        signal,
        n_frames=len(signal) // hop_length + 1,
        hop_length=hop_length,
        window=seconds_to_samples(WINDOW_S, sample_rate),
        shortest=int(sample_rate / f_max_hz),
        longest=int(np.ceil(sample_rate / f_min_hz)),
    )
    candidates_hz = np.clip(sample_rate / lags, f_min_hz, f_max_hz)
    voiced_cost = 1 - correlation * (1 - LONG_LAG_COST * f_min_hz / candidates_hz)
    voiced_cost[correlation <= WEAKEST_PEAK] = np.inf
    path = _cheapest_path(np.log2(candidates_hz), voiced_cost)
    unvoiced = np.zeros((len(path), 1))
    choices = np.concatenate([candidates_hz, unvoiced], axis=1)
    return choices[np.arange(len(path)), path]


def _candidates(
    signal: Floats, *, n_frames: int, hop_length: int, window: int, shortest: int, longest: int
) -> tuple[Floats, Floats]:
    """Find the highest peaks of each frame's correlation between two lags.

    Returns
    -------
    lags, correlation : (n_frames, n_candidates); the correlation is 0 where there is no peak
    """
    reach = longest + 1  # a peak has a neighbour on either side
    lags = np.arange(shortest - 1, reach + 1)
    padded = np.pad(signal, (window // 2 + reach, window // 2 + reach + hop_length))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window + 2 * reach)[::hop_length]
    sums = np.concatenate([[0.0], np.cumsum(np.square(padded))])
    energy = np.maximum(sums[window:] - sums[:-window], 0.0)  # of the window from each sample on
    energies = np.lib.stride_tricks.sliding_window_view(energy, 2 * reach + 1)[::hop_length]
    quiet = max(QUIET**2 * energy.max(), SILENT**2 * window) ** 2
    pieces = []
    for first in range(0, n_frames, FRAMES_AT_ONCE):
        some = slice(first, min(first + FRAMES_AT_ONCE, n_frames))
        products = _products(frames[some], window, reach)
        norms = np.sqrt(energies[some] * energies[some, reach, None] + quiet)
        correlation = products / norms
        later, earlier = correlation[:, reach + lags], correlation[:, reach - lags]
        pieces.append(_peaks((later + earlier) / 2))
    places, heights = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return lags[0] + places, heights


def _products(frames: Floats, window: int, reach: int) -> Floats:
    """Scalar products of each frame's middle with every stretch of it that is as long.

    Parameters
    ----------
    frames : (n_frames, window + 2 * reach)

    Returns
    -------
    products : (n_frames, 2 * reach + 1), from ``reach`` samples earlier to ``reach`` later
    """
    n_fft = next_fast_len(frames.shape[1], real=True)
    middle = rfft(frames[:, reach : reach + window], n_fft)
    products: Floats = irfft(rfft(frames, n_fft) * middle.conj(), n_fft)
    return products[:, : 2 * reach + 1]


def _peaks(correlation: Floats) -> tuple[Floats, Floats]:
    """Find the highest local maxima of each row, ``(n_frames, n_lags)``, shorter lags preferred.

    Returns
    -------
    places, heights : (n_frames, n_candidates), of parabolas through three points; height 0 is none
    """
    inner = correlation[:, 1:-1]
    is_peak = (inner > correlation[:, :-2]) & (inner >= correlation[:, 2:])
    rank = np.where(is_peak, inner - LONG_LAG_COST * np.linspace(0, 1, inner.shape[1]), -np.inf)
    n_candidates = min(N_CANDIDATES, inner.shape[1])
    left = np.argpartition(-rank, n_candidates - 1, axis=1)[:, :n_candidates]
    rows = np.arange(len(inner))[:, None]
    before, top, behind = (correlation[rows, left + i] for i in range(3))
    found = is_peak[rows, left]
    bend = np.where(found, before - 2 * top + behind, -1.0)
    shift = np.where(found, 0.5 * (before - behind) / bend, 0.0)
    heights = np.where(found, top - 0.25 * (before - behind) * shift, 0.0)
    return np.asarray(left + 1 + shift), heights


def _cheapest_path(octaves: Floats, voiced_cost: Floats) -> NDArray[np.intp]:
    """Choose a candidate of each frame, or "unvoiced", so that the whole costs least.

    Parameters
    ----------
    octaves, voiced_cost : (n_frames, n_candidates), logarithm of the pitch to base 2 and cost

    Returns
    -------
    path : (n_frames,), the candidate's number; ``n_candidates`` is "unvoiced"
    """
    n_frames, unvoiced = octaves.shape
    cost = np.pad(voiced_cost, ((0, 0), (0, 1)), constant_values=UNVOICED_COST)
    change = np.zeros((n_frames - 1, unvoiced + 1, unvoiced + 1))  # from, to
    change[:, :unvoiced, :unvoiced] = np.abs(octaves[1:, None, :] - octaves[:-1, :, None])
    change *= INTERVAL_COST
    change[:, :unvoiced, unvoiced] = change[:, unvoiced, :unvoiced] = VOICING_COST
    came_from = np.empty((n_frames, unvoiced + 1), dtype=np.intp)
    states = np.arange(unvoiced + 1)
    best = cost[0]
    for t in range(1, n_frames):
        totals = best[:, None] + change[t - 1]
        came_from[t] = totals.argmin(axis=0)
        best = totals[came_from[t], states] + cost[t]
    path = np.empty(n_frames, dtype=np.intp)
    path[-1] = best.argmin()
    for t in range(n_frames - 1, 0, -1):
        path[t - 1] = came_from[t, path[t]]
    return path
