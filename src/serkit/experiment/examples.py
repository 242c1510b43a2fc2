"""Utterances to examples: features, tokens, symbols and marks, as members are trained on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from serkit.corpora.check import silence_note
from serkit.experiment.config import ConfigError, ExperimentConfig
from serkit.experiment.progress import Progress
from serkit.experiment.reading import CorpusPart
from serkit.experiment.run_folder import write_json
from serkit.features.cache import ExtractedFeatures, Extractor, extract_features
from serkit.features.pitch import f0_statistics, normalise_log_f0
from serkit.features.text import PrecomputedText
from serkit.features.text_cache import ExtractedText, extract_texts
from serkit.features.views import SegmentsView, View, view_from_dict
from serkit.labels import LabelSpace, targets
from serkit.recognizer import Recognizer
from serkit.transcripts import WAV2VEC2, Symbols, ctc_clean
from serkit.types import InputError, Utterance

__all__ = [
    "encode_texts",
    "encode_transcripts",
    "extract_parts",
    "extract_sound",
    "find_symbols",
    "leave_out_short",
    "mark_emotions",
    "mark_speakers",
    "note_silence",
    "parts_with_pitch",
    "refuse_segments",
    "require_same_vectors",
    "sound_settings",
    "speakers_of",
    "spell",
]


def extract_sound(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    *,
    cache_dir: Path | None,
    progress: Progress,
) -> list[ExtractedFeatures]:
    """Extract features as they are trained on and, where that differs, as they are judged."""
    if not recognizer.listens:
        progress.say("no sound is read: equal recordings in two parts of a fold are not noticed")
        return [_unheard(utterances)]
    view = recognizer.view
    differ = isinstance(view, SegmentsView) and view.train_hop != view.test_hop
    extracted = []
    for training in (True, False) if differ else (True,):
        extractor = Extractor(
            function=partial(_features, recognizer, training),
            sample_rate=recognizer.sample_rate,
            channel=recognizer.config.channel,
            settings=sound_settings(recognizer) | ({"training": training} if differ else {}),
        )
        what = "sound" if recognizer.front_end_learns else "features"
        progress.stage(what if training else f"{what} of test segments", len(utterances))
        features = extract_features(
            utterances,
            extractor,
            cache_dir=cache_dir,
            progress=lambda done, _: progress.advance(done),
        )
        pieces = f" in {len(features.n_frames)} segments" if differ else ""
        progress.say(
            f"{what} of {len(utterances)} utterances{pieces}, {features.n_cached} of them from "
            "the cache"
        )
        extracted.append(features)
    return extracted


def note_silence(part: CorpusPart, extracted: ExtractedFeatures, progress: Progress) -> CorpusPart:
    """Say which utterances are digital silence, here and among what reports say of the corpus."""
    if not extracted.silent:
        return part
    note = silence_note(extracted.silent, len(part.utterances))
    progress.say(f"mind: {note}")
    quirks = [*part.description["quirks"], note]
    return replace(part, description=part.description | {"quirks": quirks})


def parts_with_pitch(config: ExperimentConfig) -> dict[str, Any] | None:
    """Give the second front end's settings, with the scale of pitch that the experiment asks for.

    Raises
    ------
    ConfigError
        If its settings name a scale themselves.
    """
    if config.parts is None:
        return None
    if "f0_norm" in config.parts:
        raise ConfigError("parts.f0_norm follows from pitch_norm: state that instead")
    return config.parts | {"f0_norm": "none" if config.pitch_norm == "corpus" else "utterance"}


def _unheard(utterances: Sequence[Utterance]) -> ExtractedFeatures:
    """Stand for features where nothing is heard; hashes are of names and words, none twice."""
    n = len(utterances)
    named = {u.id: json.dumps([u.corpus, u.id, u.transcript]) for u in utterances}
    return ExtractedFeatures(
        features=np.zeros((n, 1), dtype=np.float32),
        n_frames=np.ones(n, dtype=np.int64),
        owners=np.arange(n),
        audio_hashes={i: hashlib.sha256(name.encode()).hexdigest() for i, name in named.items()},
        durations_s={},
        n_cached=0,
    )


def extract_parts(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    *,
    by_speaker: bool,
    cache_dir: Path | None,
    progress: Progress,
) -> ExtractedFeatures | None:
    """Extract what a second front end gives, for recognizers that have one.

    Parameters
    ----------
    by_speaker
        Whether pitch is scaled by the statistics of all utterances of its speaker.
    """
    if recognizer.parts_front_end is None:
        return None
    settings = recognizer.parts_settings()
    assert settings is not None
    if by_speaker:
        settings["f0_norm"] = "none"
        recognizer = Recognizer(replace(recognizer.config, parts=settings))
    extractor = Extractor(
        function=recognizer.extract_parts,
        sample_rate=recognizer.sample_rate,
        channel=recognizer.config.channel,
        settings={"view": dict(recognizer.config.view), "front_end": settings},
    )
    progress.stage("spectrograms and pitch", len(utterances))
    extracted = extract_features(
        utterances,
        extractor,
        cache_dir=cache_dir,
        progress=lambda done, _: progress.advance(done),
    )
    return _scaled_by_speaker(extracted, utterances) if by_speaker else extracted


def _scaled_by_speaker(
    extracted: ExtractedFeatures, utterances: Sequence[Utterance]
) -> ExtractedFeatures:
    ends = np.cumsum(extracted.n_frames)[:-1]
    contours = np.split(extracted.features[:, -1].astype(np.float64), ends)
    spoken: dict[str, list[NDArray[np.float64]]] = {}
    for utterance, contour in zip(utterances, contours, strict=True):
        spoken.setdefault(_speaker(utterance), []).append(contour)
    voices = {
        speaker: f0_statistics(own)
        for speaker, own in spoken.items()
        # Of an unknown speaker, or one whose voice was never found, each utterance has its own.
        if speaker and sum((contour > 0).sum() for contour in own) > 1
    }
    scaled = [
        normalise_log_f0(contour, voices.get(_speaker(utterance)))
        for utterance, contour in zip(utterances, contours, strict=True)
    ]
    features = extracted.features.copy()
    features[:, -1] = np.concatenate(scaled)
    return replace(extracted, features=features)


def speakers_of(utterances: Sequence[Utterance]) -> tuple[str, ...]:
    """Name the known speakers; of several corpora, with the corpus."""
    return tuple(sorted({_speaker(u) for u in utterances if u.speaker != "unknown"}))


def mark_speakers(
    utterances: Sequence[Utterance], speakers: Sequence[str]
) -> NDArray[np.int64] | None:
    """Place of each utterance's speaker in a list, (n_utterances,); -100 for unknown ones."""
    if not speakers:
        return None
    place = {speaker: number for number, speaker in enumerate(speakers)}
    return np.array([place.get(_speaker(u), -100) for u in utterances], dtype=np.int64)


def _speaker(utterance: Utterance) -> str:
    return f"{utterance.corpus}/{utterance.speaker}" if utterance.speaker != "unknown" else ""


def sound_settings(recognizer: Recognizer) -> dict[str, object]:
    """Say what the features depend on beside the sound."""
    # A front end that is trained is not applied yet.
    applied = None if recognizer.front_end_learns else _by_content(recognizer.front_end_settings())
    return {"view": dict(recognizer.config.view), "front_end": applied}


def _by_content(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out where weights lie, where it is said what they are."""
    if settings.get("weights_sha256") is None:
        return settings
    return {key: value for key, value in settings.items() if key not in ("model", "revision")}


def _features(
    recognizer: Recognizer, training: bool, waveforms: Tensor, n_samples: Tensor
) -> tuple[Tensor, Tensor]:
    features, n_frames, _ = recognizer.extract(waveforms, n_samples, training=training)
    return features, n_frames


def encode_transcripts(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    *,
    cache_dir: Path | None,
    progress: Progress,
) -> ExtractedText | None:
    """Encode what is said, for recognizers that read it.

    Raises
    ------
    InputError
        If utterances have no transcript, or no vectors where those are precomputed, or are cut into
        segments.
    """
    if recognizer.text_encoder is None:
        return None
    refuse_segments(recognizer.view, "text")
    if isinstance(recognizer.text_encoder, PrecomputedText):
        progress.say(f"token vectors of {len(utterances)} utterances are read, not computed")
        return recognizer.text_encoder.read([u.id for u in utterances])
    missing = [u.id for u in utterances if u.transcript is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(utterances)} utterances have no transcript, the first is "
            f"{missing[0]}: give a manifest with the column transcript, or leave [text] out"
        )
    texts = [str(u.transcript) for u in utterances]
    return encode_texts(recognizer, texts, cache_dir=cache_dir, progress=progress)


def require_same_vectors(out: Path, recognizer: Recognizer) -> None:
    """Refuse to go on with a run whose precomputed token vectors were others when it began.

    Raises
    ------
    ConfigError
        If they were.
    """
    if not isinstance(recognizer.text_encoder, PrecomputedText):
        return
    config = recognizer.text_encoder.config
    path, content = out / "text.json", {"sha256": config.sha256, "n_features": config.n_features}
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != content:
        raise ConfigError(
            f"{out}: was begun with other token vectors than there are in {config.folder} now: "
            "choose another --out, or bring them back"
        )
    write_json(path, content)


def encode_texts(
    recognizer: Recognizer, texts: Sequence[str], *, cache_dir: Path | None, progress: Progress
) -> ExtractedText:
    """Encode texts with a recognizer's text encoder."""
    progress.stage("texts", len(set(texts)))
    written = recognizer.text_settings()
    settings = None if recognizer.text_learns or written is None else _by_content(written)
    return extract_texts(
        texts,
        recognizer.extract_text,
        settings=settings,
        cache_dir=cache_dir,
        progress=progress.advance,
    )


def find_symbols(config: ExperimentConfig, part: CorpusPart) -> Symbols | None:
    """Find what a CTC layer is to spell in."""
    if config.ctc is None:
        return None
    if config.ctc.symbols == "wav2vec2":
        return WAV2VEC2
    if config.ctc.symbols == "corpus":
        return Symbols.of_texts(u.transcript for u in part.utterances)
    return Symbols.read(config.ctc.symbols)


def spell(
    config: ExperimentConfig, utterances: Sequence[Utterance], symbols: Symbols | None
) -> NDArray[np.int64] | None:
    """Spell the transcripts, (n_utterances, longest of them), with -100 as padding."""
    if config.ctc is None or symbols is None:
        return None
    refuse_segments(view_from_dict(config.view), "ctc")
    cleaned = (ctc_clean(u.transcript, style=config.ctc.style, symbols=symbols) for u in utterances)
    rows = [symbols.encode(text) for text in cleaned]
    spelled = np.full((len(rows), max(map(len, rows))), -100, dtype=np.int64)
    for place, row in zip(spelled, rows, strict=True):
        place[: len(row)] = row
    return spelled


def refuse_segments(view: View, what: str) -> None:
    """Refuse a view that cuts utterances into segments, for what is about whole ones.

    Raises
    ------
    ConfigError
        If it does.
    """
    if isinstance(view, SegmentsView):
        raise ConfigError(
            f"[{what}] is about whole utterances, and the view cuts them into segments: set "
            "view.kind = 'whole' or 'fixed'"
        )


def leave_out_short(
    part: CorpusPart,
    features: list[ExtractedFeatures],
    recognizer: Recognizer,
    progress: Progress,
) -> tuple[CorpusPart, list[ExtractedFeatures], dict[str, Any]]:
    """Leave out utterances that the view drops, and say how many they are.

    Raises
    ------
    InputError
        If none is left.
    """
    n = len(part.utterances)
    wanted = np.bincount(features[-1].owners, minlength=n) > 0
    n_judged = int(wanted.sum())
    coverage: dict[str, Any] = {"n_utterances": n, "n_judged": n_judged}
    if n_judged == n:
        return part, features, coverage
    assert isinstance(recognizer.view, SegmentsView)  # no other view drops
    seconds = recognizer.view.n_samples / recognizer.sample_rate
    coverage["reason"] = f"shorter than a segment of {seconds:g} s"
    if not n_judged:
        raise InputError(
            f"all {n} utterances are {coverage['reason']}: set view.short = 'zeros' or 'repeat'"
        )
    progress.say(f"{n - n_judged} of {n} utterances are left out: {coverage['reason']}")
    kept = [u for u, want in zip(part.utterances, wanted, strict=True) if want]
    return replace(part, utterances=kept), [f.keep(wanted) for f in features], coverage


def mark_emotions(
    utterances: Sequence[Utterance], labels: LabelSpace, *, multi: bool
) -> NDArray[np.int64] | NDArray[np.float32]:
    """Class indices (n,) or, where several classes may hold, marks (n, n_classes)."""
    names = [str(u.label) for u in utterances]
    return targets(names, labels) if multi else np.array([labels.index(name) for name in names])
