"""Random resampling: stretches of a sequence are made longer or shorter, each by its own factor.

What a network is to say about rhythm then cannot be read from the resampled sequence. From Qian,
Zhang, Chang, Cox, Hasegawa-Johnson: "Unsupervised Speech Decomposition via Triple Information
Bottleneck", ICML 2020, as in the authors' public code, with which this file agrees.

A sequence is cut into segments of random lengths; each is read at a random speed, with linear
interpolation between neighbouring frames, up to but without the last frame of its sequence; the
results follow one another. There are as many segments as cover two thirds of the padded length if
each is as short as can be, so sequences want to be padded to 1.5 times the longest.

Deviations: the published number of segments and padded length are constants for crops of 128
frames in 192; here they follow from what comes in, and are the same for 192.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serkit.models.layers import lengths_to_mask

__all__ = ["Draws", "RandomResampler"]

SLOWEST = 1.5  # factor of the length; the smallest is 1 less


@dataclass(frozen=True, slots=True)
class Draws:
    """What is random about one resampling.

    Attributes
    ----------
    stretches : (batch, n_segments), in [0, 1); the factor of the length is 0.5 more
    lengths : (batch, n_segments), frames of each segment
    """

    stretches: Tensor
    lengths: Tensor


class RandomResampler(nn.Module):
    """Resample in training; in evaluation, give what comes in.

    Parameters
    ----------
    min_segment, max_segment
        Fewest and most frames of a segment.
    """

    def __init__(self, *, min_segment: int = 19, max_segment: int = 31) -> None:
        super().__init__()
        self.min_segment, self.max_segment = min_segment, max_segment

    def draw(self, n_rows: int, n_frames: int, *, device: torch.device) -> Draws:
        """Draw from torch's generator for a padded batch."""
        n_segments = 2 * n_frames // 3 // self.min_segment + 1
        shape = (n_rows, n_segments)
        stretches = torch.rand(shape, device=device)
        lengths = torch.randint(self.min_segment, self.max_segment + 1, shape, device=device)
        return Draws(stretches, lengths)

    def forward(
        self, x: Tensor, lengths: Tensor, draws: Draws | None = None
    ) -> tuple[Tensor, Tensor]:
        """Resample each sequence; all channels of one alike.

        Parameters
        ----------
        x : (batch, n_frames, n_channels)
        lengths : (batch,), valid frames
        draws
            Prescribed; none: drawn.

        Returns
        -------
        resampled : (batch, n_frames, n_channels), cut off at this width, zeros behind the ends
        lengths : (batch,)
        """
        if not self.training:
            return x, lengths
        width = x.shape[1]
        draws = draws or self.draw(len(x), width, device=x.device)
        frame, fraction, place, n_kept = self._positions(draws, lengths, width)
        left = frame.new_zeros(len(x), width + 1).scatter(1, place, frame)[:, :width]
        weight = fraction.new_zeros(len(x), width + 1).scatter(1, place, fraction)[:, :width]
        weight, left = weight.to(x.dtype).unsqueeze(2), left.unsqueeze(2).expand_as(x)
        right = (left + 1).clamp_max(width - 1)
        resampled = (1 - weight) * x.gather(1, left) + weight * x.gather(1, right)
        n_kept = n_kept.clamp_max(width)
        valid = lengths_to_mask(n_kept, width).unsqueeze(2)
        return resampled.masked_fill(~valid, 0), n_kept

    def _positions(
        self, draws: Draws, lengths: Tensor, width: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find where output frames are read; candidates are the frames of all segments.

        Returns
        -------
        frame : (batch, n_candidates), of the input
        fraction : (batch, n_candidates), of the way to the next
        place : (batch, n_candidates), in the output; ``width`` where there is none
        n_kept : (batch,)
        """
        n_candidates = int(SLOWEST * self.max_segment)  # of one segment
        steps = torch.arange(n_candidates, device=lengths.device, dtype=torch.float32)
        within = steps / (draws.stretches.float() + SLOWEST - 1).unsqueeze(2)
        frame = within.long()  # (batch, n_segments, n_candidates)
        starts = (draws.lengths.cumsum(1) - draws.lengths).unsqueeze(2)
        last = lengths[:, None, None] - 1
        kept = (frame < draws.lengths.unsqueeze(2) - 1) & (starts + frame < last)
        place = torch.where(kept.flatten(1), kept.flatten(1).cumsum(1) - 1, width).clamp_max(width)
        return (starts + frame).flatten(1), (within - frame).flatten(1), place, kept.sum((1, 2))
