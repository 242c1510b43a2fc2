"""Utterances with transcripts as examples to train on, and the losses of a speech recogniser.

Sound is decoded when it is first needed and kept, as far as memory is granted. What is different
from epoch to epoch, augmentation and dither, is a function of (seed, epoch, id), so that a training
that was stopped in the middle of an epoch goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from serkit.audio import Channel, Waveform, load_audio
from serkit.evaluation.transcription import cer, wer
from serkit.features.augment_list import AugmentList
from serkit.features.fbank import Fbank
from serkit.models.attention_decoder import attention_loss
from serkit.speech_recogniser import Decoding, Heard, SpeechRecogniser
from serkit.training.ctc import ctc_loss
from serkit.training.data import derive_seed
from serkit.training.learner import EpochRow, Forgetful
from serkit.types import Utterance

__all__ = [
    "AsrCriterion",
    "AsrPart",
    "Spoken",
    "feature_statistics",
    "hear_part",
    "judge_transcripts",
]

PADDING = -100


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance, its cleaned transcript, and the symbols that spell it.

    ``utterance.duration_s`` must be known.
    """

    utterance: Utterance
    text: str
    symbols: tuple[int, ...]


class _Memory:
    """Keeps arrays until they take too much; what comes later is not kept."""

    def __init__(self, limit_mib: float) -> None:
        self._left = limit_mib * 2**20
        self._kept: dict[tuple[str, int], Any] = {}

    def get(self, kind: str, row: int) -> Any | None:
        return self._kept.get((kind, row))

    def offer(self, kind: str, row: int, value: Any) -> None:
        n_bytes = 4 * int(np.prod(value.shape))  # both kinds are float32
        if n_bytes <= self._left:
            self._left -= n_bytes
            self._kept[kind, row] = value


class AsrPart:
    """A part of a corpus, for :func:`serkit.training.loop.fit_learner`.

    Parameters
    ----------
    spoken
        What it holds.
    front_end
        Makes the features; as the recogniser's own.
    augment
        What is made different in training; none: nothing.
    memory_mib
        Sound and features that may be kept, in MiB.
    channel
        Which channel of a file is heard.
    """

    def __init__(
        self,
        spoken: Sequence[Spoken],
        front_end: Fbank,
        *,
        augment: AugmentList | None = None,
        memory_mib: float = 1024.0,
        channel: Channel = "mean",
    ) -> None:
        self.spoken = tuple(spoken)
        self.front_end = Fbank(front_end.config)  # on the CPU, with a mode of its own
        self.augment = augment or AugmentList([])
        self._memory = _Memory(memory_mib)
        self._channel = channel

    @property
    def ids(self) -> tuple[str, ...]:
        """What the examples are."""
        return tuple(one.utterance.id for one in self.spoken)

    def __len__(self) -> int:
        return len(self.spoken)

    def lengths(self) -> Tensor:
        """Count the frames of each example as it was recorded, (len(self),)."""
        rate = self.front_end.config.sample_rate
        seconds = [one.utterance.duration_s or 0.0 for one in self.spoken]
        return self.front_end.n_frames(torch.tensor([round(s * rate) for s in seconds]))

    def training_batch(self, rows: Tensor, *, seed: int, epoch: int) -> dict[str, Tensor]:
        """Make a batch of some examples, each changed as ``augment`` says."""
        chosen = rows.tolist()
        return self._batch(chosen, [self._changed(row, seed, epoch) for row in chosen])

    def batches(self, batch_size: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Give all examples as they are, those of similar length together, with their rows."""
        order = self.lengths().argsort(stable=True).tolist()
        for i in range(0, len(order), batch_size):
            rows = order[i : i + batch_size]
            yield rows, self._batch(rows, [self.features(row) for row in rows])

    def features(self, row: int) -> Tensor:
        """Make the features of an example as it is, ``(n_frames, n_features)``."""
        kept: Tensor | None = self._memory.get("features", row)
        if kept is None:
            kept = self._transform(self.waveform(row))
            self._memory.offer("features", row, kept)
        return kept

    def waveform(self, row: int) -> Waveform:
        """Read the sound of an example, at the front end's rate."""
        kept: Waveform | None = self._memory.get("waveform", row)
        if kept is None:
            utterance = self.spoken[row].utterance
            kept, _ = load_audio(
                utterance.path,
                sample_rate=self.front_end.config.sample_rate,
                start_s=utterance.start_s,
                end_s=utterance.end_s,
                channel=self._channel,
            )
            self._memory.offer("waveform", row, kept)
        return kept

    def _changed(self, row: int, seed: int, epoch: int) -> Tensor:
        """Make the features of an example for an epoch of training."""
        name, front = self.spoken[row].utterance.id, self.front_end.config
        if not len(self.augment) and not front.dither:
            return self.features(row)
        plain = self.waveform(row)
        changed = self.augment.waveform(plain, front.sample_rate, epoch=epoch, utterance_id=name)
        if changed is plain and not front.dither:  # only features are changed
            features = self.features(row)
        else:
            features = self._transform(changed, dither=derive_seed(seed, "dither", epoch, name))
        return self.augment.features(features, epoch=epoch, utterance_id=name)

    def _transform(self, waveform: Waveform, *, dither: int | None = None) -> Tensor:
        self.front_end.train(dither is not None)
        sound = torch.from_numpy(waveform).unsqueeze(0)
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            if dither is not None:
                torch.manual_seed(dither)
            features, _ = self.front_end(sound, torch.tensor([len(waveform)]))
        made: Tensor = features[0].clone()
        return made

    def _batch(self, rows: Sequence[int], features: Sequence[Tensor]) -> dict[str, Tensor]:
        tokens = [torch.tensor(self.spoken[row].symbols, dtype=torch.long) for row in rows]
        return {
            "features": pad_sequence([one.clone() for one in features], batch_first=True),
            "n_frames": torch.tensor([len(one) for one in features]),
            "ctc": pad_sequence(tokens, batch_first=True, padding_value=PADDING),
            "tokens": pad_sequence(tokens, batch_first=True),
            "n_tokens": torch.tensor([len(one) for one in tokens]),
        }


class AsrCriterion(Forgetful):
    """CTC, or ``ctc_weight`` of it and attention decoders for the rest; it remembers nothing.

    Both are summed over the symbols of an utterance and averaged over those of a batch. Utterances
    whose text is longer than their frames can spell count nothing in CTC.

    Parameters
    ----------
    ctc_weight
        Share of CTC where there are decoders; without any it is all.
    smoothing, reverse_weight
        See :func:`serkit.models.attention_decoder.attention_loss`.
    """

    def __init__(
        self, *, ctc_weight: float = 0.3, smoothing: float = 0.1, reverse_weight: float = 0.3
    ) -> None:
        self.ctc_weight, self.smoothing = ctc_weight, smoothing
        self.reverse_weight = reverse_weight

    def describe(self) -> Any:
        """Say what it is."""
        return ["asr", self.ctc_weight, self.smoothing, self.reverse_weight]

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], *, share: float
    ) -> Tensor:
        """Compute the loss of a share of a batch."""
        summed = ctc_loss(
            outputs["asr"], outputs["n_asr"], batch["ctc"], reduction="sum", zero_infinity=True
        )
        ctc = summed / len(batch["ctc"])
        if "decoder" not in outputs:
            return share * ctc
        attention = attention_loss(
            dict(outputs),
            batch["tokens"],
            batch["n_tokens"],
            smoothing=self.smoothing,
            reverse_weight=self.reverse_weight,
        )
        return share * (self.ctc_weight * ctc + (1 - self.ctc_weight) * attention)


def feature_statistics(part: AsrPart, *, most: int) -> tuple[Tensor, Tensor]:
    """Measure mean and one over the standard deviation of each feature.

    Parameters
    ----------
    most
        Utterances that are measured at most, spread over the part.

    Returns
    -------
    mean, istd : (n_features,)
    """
    rows = np.unique(np.linspace(0, len(part) - 1, min(most, len(part))).round().astype(int))
    n = 0
    summed = squared = torch.zeros(part.front_end.config.n_features, dtype=torch.float64)
    for row in rows.tolist():
        features = part.features(row).double()
        n += len(features)
        summed = summed + features.sum(0)
        squared = squared + features.square().sum(0)
    mean = summed / n
    variance = (squared / n - mean.square()).clamp_min(1e-4)  # a dead band stays as it is
    return mean.float(), variance.rsqrt().float()


@torch.inference_mode()
def hear_part(
    recogniser: SpeechRecogniser,
    part: AsrPart,
    *,
    batch_size: int = 16,
    decodings: Sequence[Decoding] = ("greedy",),
) -> tuple[dict[Decoding, list[Heard]], float]:
    """Recognise all examples of a part.

    Returns
    -------
    heard : by decoding, one of each example in the part's order
    loss : CTC's, per symbol, mean over the examples
    """
    recogniser.eval()
    device = next(recogniser.parameters()).device
    heard: dict[Decoding, dict[int, Heard]] = {decoding: {} for decoding in decodings}
    loss = 0.0
    for rows, copied in part.batches(batch_size):
        batch = {name: t.to(device) for name, t in copied.items()}
        outputs = recogniser({name: batch[name] for name in ("features", "n_frames")})
        mean = ctc_loss(
            outputs["asr"], outputs["n_asr"], batch["ctc"], reduction="mean", zero_infinity=True
        )
        loss += float(mean) * len(rows)
        seconds = [part.spoken[row].utterance.duration_s or 0.0 for row in rows]
        for decoding in decodings:
            found = recogniser.read(outputs["asr"], outputs["n_asr"], seconds, decoding=decoding)
            heard[decoding] |= dict(zip(rows, found, strict=True))
    in_order = {name: [found[i] for i in range(len(part))] for name, found in heard.items()}
    return in_order, loss / max(1, len(part))


def judge_transcripts(
    recogniser: SpeechRecogniser, part: AsrPart, *, batch_size: int = 16
) -> EpochRow:
    """Judge a dev part: loss, character and word error rates of greedy decoding."""
    heard, loss = hear_part(recogniser, part, batch_size=batch_size)
    said = [one.text for one in part.spoken]
    texts = [one.text for one in heard["greedy"]]
    return {"dev_loss": loss, "dev_cer": cer(said, texts), "dev_wer": wer(said, texts)}
