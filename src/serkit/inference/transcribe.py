"""What is said in recordings, by one of several speech recognisers.

======================  ===========================================================================
back-end                model
======================  ===========================================================================
``own``                 a checkpoint or run folder of ``serkit train asr/...``
``transformers``        a folder in the format of Hugging Face: networks with a CTC head
                        (wav2vec 2.0, HuBERT, WavLM, ...) or Whisper
``faster-whisper``      a folder in the format of CTranslate2; computed in 8 bits on the CPU
``vosk``                a folder of Vosk
``manifest``            none: the words that a table of utterances gives
``none``                none: nothing is heard
======================  ===========================================================================

Models are folders on this machine; nothing is ever fetched. The same sound gives the same text: no
back-end draws at random. Recordings longer than a network takes at once are cut where nobody
speaks. Silence gives an empty text.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from serkit.audio import Waveform, file_sha256, resample, waveform_sha256
from serkit.checkpoints import WEIGHTS_FILE, find_checkpoint
from serkit.features.cache import default_cache_dir
from serkit.features.pretrained import quiet, read_json, weights_sha256
from serkit.features.voice_activity import speech_stretches
from serkit.files import write_atomically
from serkit.inference.files import refuse_folder
from serkit.models.ctc_decode import Hypothesis, Segment, greedy_decode
from serkit.speech_recogniser import TASK, Decoding
from serkit.speech_recogniser import load_speech_recogniser as load_own
from serkit.transcripts import Symbols
from serkit.types import InputError, MissingExtraError, Utterance
from serkit.video import load_sound

__all__ = [
    "BACKENDS",
    "AsrUnavailableError",
    "CachedTranscriber",
    "Transcriber",
    "TranscriberSettings",
    "Transcript",
    "TranscriptRow",
    "open_transcriber",
    "texts_heard",
    "transcribe_utterances",
    "transcript_table",
    "utterances_of_files",
]

RATE = 16_000  # Hz, of all pre-trained recognisers
_LONGEST_S = 28.0  # Whisper hears 30 s at once
_SHORTEST = 1_600  # samples; less is followed by zeros
_VOSK_BLOCK = 4_000  # samples


class AsrUnavailableError(InputError):
    """A back-end whose model is not there; the message says what to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What is said in a recording.

    Attributes
    ----------
    segments
        Words or longer stretches with their times, where the back-end tells them.
    language
        As the back-end found it or was told; none if it does not say.
    confidence
        In [0, 1]; none if the back-end gives none.
    backend, model_id
        Who says so.
    """

    text: str
    segments: tuple[Segment, ...] = ()
    language: str | None = None
    confidence: float | None = None
    backend: str
    model_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriberSettings:
    """What a back-end may be told.

    Attributes
    ----------
    model
        Its folder.
    language
        Of what is said, such as ``de``, for networks that know several; none: they find out.
    task
        Of Whisper: write down, or translate into English.
    decoding
        Of ``own``.
    """

    model: Path | None = None
    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    decoding: Decoding = "greedy"


class Transcriber(Protocol):
    """A back-end.

    Attributes
    ----------
    backend, model_id
        Its name, and what tells its model and settings from others.
    """

    backend: str
    model_id: str

    def transcribe(
        self, waveform: Waveform, sample_rate: int, *, given: str | None = None
    ) -> Transcript:
        """Write down what is said.

        Parameters
        ----------
        waveform : (n_samples,), float32 in [-1, 1]
        sample_rate : Hz
        given
            What a table says is said; only ``manifest`` looks at it.
        """
        ...

    def close(self) -> None:
        """Let go of the model."""
        ...


def open_transcriber(
    name: str, settings: TranscriberSettings | None = None, *, cache_dir: Path | None = None
) -> Transcriber:
    """Open a back-end.

    Parameters
    ----------
    name
        A key of :data:`BACKENDS`.
    cache_dir
        Where transcripts are kept; none: they are not.

    Raises
    ------
    AsrUnavailableError
        If its model is not there or cannot be used.
    MissingExtraError
        If its package is not installed.
    InputError
        If there is no such back-end.
    """
    if name not in BACKENDS:
        raise InputError(f"no speech recogniser '{name}', expected one of {', '.join(BACKENDS)}")
    transcriber = BACKENDS[name](settings or TranscriberSettings())
    if cache_dir is None or name in ("manifest", "none"):
        return transcriber
    return CachedTranscriber(transcriber, cache_dir)


class OwnTranscriber:
    """A speech recogniser that was trained here."""

    backend = "own"

    def __init__(self, settings: TranscriberSettings) -> None:
        folder = _folder(settings, self.backend, "a run folder of 'serkit train asr/conformer'")
        self._recogniser: Any = load_own(folder)
        weights = file_sha256(find_checkpoint(folder, TASK) / WEIGHTS_FILE)
        self.model_id = f"{folder.name}@{weights[:12]} {settings.decoding}"
        self._decoding: Decoding = settings.decoding

    def transcribe(
        self, waveform: Waveform, sample_rate: int, *, given: str | None = None
    ) -> Transcript:
        """Write down what is said."""
        heard = self._recogniser.transcribe_at(waveform, sample_rate, decoding=self._decoding)
        return Transcript(
            text=heard.text,
            segments=heard.segments,
            confidence=heard.confidence,
            backend=self.backend,
            model_id=self.model_id,
        )

    def close(self) -> None:
        """Let go of the network."""
        self._recogniser = None


class CtcTranscriber:
    """A network of the transformers package with a CTC head, read by our own greedy decoding."""

    backend = "transformers"

    def __init__(self, settings: TranscriberSettings, folder: Path) -> None:
        from transformers import AutoModelForCTC

        config = read_json(folder / "config.json")
        self.model_id = f"{folder.name}@{_weights(folder)}"
        self._network: Any = _load(AutoModelForCTC, folder)
        self._language = settings.language
        self._symbols, self._order = _ctc_symbols(folder, config)
        if len(self._symbols) != int(self._network.config.vocab_size):
            raise AsrUnavailableError(
                f"{folder}: vocab.json has {len(self._symbols)} symbols and the network tells "
                f"{self._network.config.vocab_size} apart: fetch the folder again"
            )
        self._frame_s = float(np.prod(config["conv_stride"])) / RATE
        self._normalise = _preprocessor(folder).get("do_normalize", True)

    @torch.inference_mode()
    def transcribe(
        self, waveform: Waveform, sample_rate: int, *, given: str | None = None
    ) -> Transcript:
        """Write down what is said."""
        found = [(start, self._read(sound)) for start, sound in _pieces(waveform, sample_rate)]
        spoken = [(start, one) for start, one in found if one.text]
        between = " " if {"|", " "} & set(self._symbols.symbols) else ""
        segments = tuple(
            _moved(segment, start) for start, one in spoken for segment in one.segments
        )
        scores = [one.score or 0.0 for _, one in spoken]
        weights = [len(one.text) for _, one in spoken]
        return Transcript(
            text=between.join(one.text for _, one in spoken),
            segments=segments,
            language=self._language,
            confidence=float(np.average(scores, weights=weights)) if scores else None,
            backend=self.backend,
            model_id=self.model_id,
        )

    def _read(self, sound: Waveform) -> Hypothesis:
        values = torch.from_numpy(sound)
        if self._normalise:
            values = (values - values.mean()) / (values.var(correction=0) + 1e-7).sqrt()
        logits: Tensor = self._network(values.unsqueeze(0)).logits[..., self._order]
        n_frames = torch.tensor([logits.shape[1]])
        return greedy_decode(logits, n_frames, symbols=self._symbols, frame_s=self._frame_s)[0]

    def close(self) -> None:
        """Let go of the network."""
        self._network = None


class WhisperTranscriber:
    """Whisper of the transformers package (Radford et al., ICML 2023), decoded greedily."""

    backend = "transformers"

    def __init__(self, settings: TranscriberSettings, folder: Path) -> None:
        from transformers import (
            AutoTokenizer,
            WhisperFeatureExtractor,
            WhisperForConditionalGeneration,
        )

        self.model_id = f"{folder.name}@{_weights(folder)} {settings.language} {settings.task}"
        self._network: Any = _load(WhisperForConditionalGeneration, folder)
        self._features: Any = WhisperFeatureExtractor(
            feature_size=int(self._network.config.num_mel_bins)
        )
        self._tokenizer: Any = _load(AutoTokenizer, folder)
        self._language = settings.language
        self._options: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        if getattr(self._network.generation_config, "lang_to_id", None):
            self._options |= {"task": settings.task, "language": settings.language}
        elif settings.language not in (None, "en") or settings.task != "transcribe":
            raise AsrUnavailableError(
                f"{folder}: this Whisper knows English alone: leave language and task out, or "
                "give a folder of a multilingual one"
            )

    @torch.inference_mode()
    def transcribe(
        self, waveform: Waveform, sample_rate: int, *, given: str | None = None
    ) -> Transcript:
        """Write down what is said."""
        texts = [self._read(sound) for _, sound in _pieces(waveform, sample_rate)]
        return Transcript(
            text=" ".join(text for text in texts if text),
            language=self._language,
            backend=self.backend,
            model_id=self.model_id,
        )

    def _read(self, sound: Waveform) -> str:
        frames = self._features(sound, sampling_rate=RATE, return_tensors="pt").input_features
        # The windows of small networks are shorter than 30 s.
        longest = 2 * int(self._network.config.max_source_positions)
        with quiet():
            ids = self._network.generate(frames[..., :longest], **self._options)
        text: str = self._tokenizer.decode(ids[0], skip_special_tokens=True)
        return " ".join(text.split())

    def close(self) -> None:
        """Let go of the network."""
        self._network = None


class FasterWhisperTranscriber:
    """Whisper as CTranslate2 computes it."""

    backend = "faster-whisper"

    def __init__(self, settings: TranscriberSettings) -> None:
        folder = _folder(settings, self.backend, "a folder in the format of CTranslate2")
        if not (folder / "model.bin").is_file():
            raise AsrUnavailableError(
                f"{folder}: no model.bin in it: expected a Whisper in the format of CTranslate2, "
                "as ct2-transformers-converter makes it"
            )
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise MissingExtraError(
                "faster-whisper", extra="asr", needed_for="recogniser faster-whisper"
            ) from None
        weights = file_sha256(folder / "model.bin")[:12]
        self.model_id = f"{folder.name}@{weights} {settings.language} {settings.task}"
        self._options = {"language": settings.language, "task": settings.task}
        try:
            self._network: Any = WhisperModel(
                str(folder), device="cpu", compute_type="int8", local_files_only=True
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise _broken(folder, error) from None

    def transcribe(
        self, waveform: Waveform, sample_rate: int, *, given: str | None = None
    ) -> Transcript:
        """Write down what is said."""
        sound = _at_16k(waveform, sample_rate)
        if sound is None:
            return Transcript(text="", backend=self.backend, model_id=self.model_id)
        # At temperatures above 0 it would draw words at random.
        lazy, info = self._network.transcribe(
            sound, beam_size=5, temperature=0.0, condition_on_previous_text=False, **self._options
        )
        segments = tuple(
            Segment(one.text.strip(), one.start, one.end, float(np.exp(one.avg_logprob)))
            for one in lazy  # computed while it is read
        )
        lengths = [max(one.end_s - one.start_s, 1e-3) for one in segments]
        scores = [one.score for one in segments]
        return Transcript(
            text=" ".join(one.text for one in segments if one.text),
            segments=segments,
            language=info.language,
            confidence=float(np.average(scores, weights=lengths)) if segments else None,
            backend=self.backend,
            model_id=self.model_id,
        )

    def close(self) -> None:
        """Let go of the network."""
        self._network = None


class VoskTranscriber:
    """Vosk: Kaldi's networks with a language model."""

    backend = "vosk"

    def __init__(self, settings: TranscriberSettings) -> None:
        folder = _folder(settings, self.backend, "a model folder of Vosk")
        try:
            import vosk
        except ImportError:
            raise MissingExtraError("vosk", extra="asr", needed_for="recogniser vosk") from None
        vosk.SetLogLevel(-1)
        self._vosk: Any = vosk
        try:
            self._model: Any = vosk.Model(model_path=str(folder))
        except Exception as error:  # vosk raises nothing more special
            raise _broken(folder, error) from None
        self._language = settings.language
        self.model_id = f"{folder.name}@{_listing(folder)}"

    def transcribe(
        self, waveform: Waveform, sample_rate: int, *, given: str | None = None
    ) -> Transcript:
        """Write down what is said."""
        sound = _at_16k(waveform, sample_rate)
        words: list[Mapping[str, Any]] = []
        texts: list[str] = []
        if sound is not None:
            recogniser = self._vosk.KaldiRecognizer(self._model, RATE)
            recogniser.SetWords(True)
            samples = np.round(np.clip(sound, -1, 1) * 32_767).astype("<i2")
            answers = []
            for i in range(0, len(samples), _VOSK_BLOCK):
                if recogniser.AcceptWaveform(samples[i : i + _VOSK_BLOCK].tobytes()):
                    answers.append(recogniser.Result())
            for answer in map(json.loads, [*answers, recogniser.FinalResult()]):
                texts.append(answer.get("text", ""))
                words += answer.get("result", [])
        segments = tuple(
            Segment(one["word"], one["start"], one["end"], float(one["conf"])) for one in words
        )
        return Transcript(
            text=_join_words(" ".join(texts).split()),
            segments=segments,
            language=self._language,
            confidence=float(np.mean([one.score for one in segments])) if segments else None,
            backend=self.backend,
            model_id=self.model_id,
        )

    def close(self) -> None:
        """Let go of the model."""
        self._model = None


class ManifestTranscriber:
    """The words that a table gives."""

    backend, model_id = "manifest", ""

    def __init__(self, settings: TranscriberSettings) -> None:
        self._language = settings.language

    def transcribe(
        self, waveform: Waveform, sample_rate: int, *, given: str | None = None
    ) -> Transcript:
        """Give what is given.

        Raises
        ------
        InputError
            If nothing is.
        """
        if given is None:
            raise InputError(
                "--with manifest takes the words from a table, and this recording has none in it: "
                "add a transcript, or choose another recogniser"
            )
        return Transcript(text=given, language=self._language, backend=self.backend)

    def close(self) -> None:
        """Do nothing."""


class NoTranscriber:
    """Hears nothing."""

    backend, model_id = "none", ""

    def __init__(self, settings: TranscriberSettings) -> None:
        pass

    def transcribe(
        self, waveform: Waveform, sample_rate: int, *, given: str | None = None
    ) -> Transcript:
        """Give an empty text."""
        return Transcript(text="", backend=self.backend)

    def close(self) -> None:
        """Do nothing."""


def _open_transformers(settings: TranscriberSettings) -> Transcriber:
    """Open a folder in the format of Hugging Face, whatever is in it."""
    folder = _folder(settings, "transformers", "a folder with config.json and model.safetensors")
    kind = read_json(folder / "config.json").get("model_type")
    try:
        import transformers
    except ImportError:
        raise MissingExtraError(
            "transformers", extra="encoders", needed_for="recogniser transformers"
        ) from None
    if kind == "whisper":
        return WhisperTranscriber(settings, folder)
    known = getattr(transformers, "MODEL_FOR_CTC_MAPPING", {})
    if kind not in {config.model_type for config in known}:
        raise AsrUnavailableError(
            f"{folder / 'config.json'}: model_type is {kind!r}, expected whisper or a network with "
            "a CTC head, such as wav2vec2"
        )
    return CtcTranscriber(settings, folder)


BACKENDS: dict[str, Callable[[TranscriberSettings], Transcriber]] = {
    "own": OwnTranscriber,
    "transformers": _open_transformers,
    "faster-whisper": FasterWhisperTranscriber,
    "vosk": VoskTranscriber,
    "manifest": ManifestTranscriber,
    "none": NoTranscriber,
}


class CachedTranscriber:
    """Keeps transcripts, by the sound, the back-end and its model.

    Parameters
    ----------
    cache_dir
        Folder; transcripts lie in ``transcripts`` in it.
    """

    def __init__(self, transcriber: Transcriber, cache_dir: Path | None = None) -> None:
        self._transcriber = transcriber
        self._folder = (cache_dir or default_cache_dir()) / "transcripts"
        self.backend, self.model_id = transcriber.backend, transcriber.model_id

    def transcribe(
        self, waveform: Waveform, sample_rate: int, *, given: str | None = None
    ) -> Transcript:
        """Find a transcript, or make it."""
        sound = waveform_sha256(np.ascontiguousarray(waveform, dtype=np.float32))
        key = json.dumps([sound, sample_rate, self.backend, self.model_id])
        name = hashlib.sha256(key.encode()).hexdigest()
        path = self._folder / name[:2] / f"{name}.json"
        found = _read_cached(path)
        if found is None:
            found = self._transcriber.transcribe(waveform, sample_rate, given=given)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(asdict(found), ensure_ascii=False))
        return found

    def close(self) -> None:
        """Let go of the model."""
        self._transcriber.close()


@dataclass(frozen=True, slots=True)
class TranscriptRow:
    """One utterance: what is said, or the reason why that is not known."""

    utterance: Utterance
    transcript: Transcript | None
    error: str = ""


def utterances_of_files(files: Iterable[Path]) -> list[Utterance]:
    """Take whole files for utterances."""
    return [
        Utterance(id=str(path), path=path, corpus="files", label=None, speaker="unknown")
        for path in files
    ]


def transcribe_utterances(
    transcriber: Transcriber,
    utterances: Sequence[Utterance],
    *,
    on_done: Callable[[int], None] | None = None,
) -> list[TranscriptRow]:
    """Write down what is said in utterances; one that cannot be used costs its own row alone.

    Of a video its sound is read, which needs PyAV.

    Parameters
    ----------
    on_done
        Called with the number that are done.
    """
    rows = []
    for number, one in enumerate(utterances, start=1):
        try:
            waveform, rate = _sound_of(one)
            heard = transcriber.transcribe(waveform, rate, given=one.transcript)
            rows.append(TranscriptRow(one, heard))
        except InputError as error:
            rows.append(TranscriptRow(one, None, str(error)))
        if on_done is not None:
            on_done(number)
    return rows


def _sound_of(one: Utterance) -> tuple[Waveform, int]:
    """Read an utterance's sound, from a sound file or a video."""
    refuse_folder(one.path)
    return load_sound(one.path, clip_rate=RATE, start_s=one.start_s, end_s=one.end_s)


def texts_heard(files: Sequence[Path], name: str, model: Path | None) -> dict[Path, str]:
    """Write down what is said in files, for recognizers of emotion that read.

    A file that cannot be used is left out: whoever recognises the emotion in it says why.

    Raises
    ------
    InputError
        As :func:`open_transcriber` does.
    """
    settings = TranscriberSettings(model=model)
    transcriber = open_transcriber(name, settings, cache_dir=default_cache_dir())
    rows = transcribe_utterances(transcriber, utterances_of_files(files))
    return {row.utterance.path: row.transcript.text for row in rows if row.transcript is not None}


def transcript_table(rows: Sequence[TranscriptRow]) -> str:
    """Write rows as CSV; its columns ``file`` and ``text`` are what ``predict --texts`` reads."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow("id,file,start_s,end_s,text,language,confidence,backend,model,error".split(","))
    for row in rows:
        one, heard = row.utterance, row.transcript
        place = [one.id, str(one.path), f"{one.start_s:g}", "" if one.end_s is None else one.end_s]
        said: list[object] = ["", "", "", "", ""]
        if heard is not None:
            sure = "" if heard.confidence is None else f"{heard.confidence:.4f}"
            said = [heard.text, heard.language or "", sure, heard.backend, heard.model_id]
        writer.writerow([*place, *said, row.error])
    return buffer.getvalue()


def _folder(settings: TranscriberSettings, backend: str, expected: str) -> Path:
    if settings.model is None:
        raise AsrUnavailableError(
            f"recogniser {backend} needs a model, {expected}: give --model to 'serkit "
            "transcribe', or --transcriber-model where its words are used"
        )
    folder = Path(settings.model).expanduser()
    if not folder.is_dir():
        raise AsrUnavailableError(
            f"recogniser {backend}: {folder} is no folder on this machine: give {expected}; "
            "nothing is fetched"
        )
    return folder


def _broken(folder: Path, error: Exception) -> AsrUnavailableError:
    detail = " ".join(str(error).split())[:200]
    return AsrUnavailableError(f"{folder}: cannot be loaded ({detail}): fetch the folder again")


def _load(kind: Any, folder: Path) -> Any:
    """Load a part of a pre-trained recogniser from its folder, from nowhere else."""
    options = {} if "Tokenizer" in kind.__name__ else {"use_safetensors": True}
    try:
        with quiet():
            part = kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise _broken(folder, error) from None
    return part.eval() if hasattr(part, "eval") else part


def _weights(folder: Path) -> str:
    return weights_sha256(folder, expected=None, where=str(folder))[:12]


def _preprocessor(folder: Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    found = read_json(path) if path.exists() else {}
    if found.get("sampling_rate", RATE) != RATE:
        raise AsrUnavailableError(
            f"{path}: sampling_rate is {found['sampling_rate']}, expected {RATE}"
        )
    return found


def _ctc_symbols(folder: Path, config: Mapping[str, Any]) -> tuple[Symbols, list[int]]:
    """Read the symbols of a CTC head, and the order of logits that puts the blank first."""
    found = read_json(folder / "vocab.json")
    if not all(type(index) is int for index in found.values()):
        raise AsrUnavailableError(
            f"{folder / 'vocab.json'}: expected one object of symbols and their indices; for "
            "networks with a vocabulary per language keep that of yours"
        )
    by_index = {index: symbol for symbol, index in found.items()}
    pieces = [one for one in found if len(one) > 1 and one[0] not in "<["]
    if pieces:
        raise AsrUnavailableError(
            f"{folder / 'vocab.json'}: '{pieces[0]}' has several characters: networks that spell "
            "in pieces of words are not understood"
        )
    blank = int(config.get("pad_token_id") or 0)
    if sorted(by_index) != list(range(len(by_index))) or blank not in by_index:
        raise AsrUnavailableError(
            f"{folder / 'vocab.json'}: indices have holes, or none is pad_token_id = {blank}: "
            "fetch the folder again"
        )
    order = [blank, *(index for index in sorted(by_index) if index != blank)]
    return Symbols(tuple(by_index[index] for index in order)), order


def _at_16k(waveform: Waveform, sample_rate: int) -> Waveform | None:
    """Bring sound to 16 kHz; none of silence."""
    sound = np.ascontiguousarray(waveform, dtype=np.float32)
    if sound.ndim != 1 or not np.isfinite(sound).all():
        raise InputError(
            f"waveform of shape {sound.shape}: expected (n_samples,), finite numbers: average the "
            "channels and clean it first"
        )
    if not np.any(sound):
        return None
    sound = resample(sound, sample_rate, RATE)
    return np.pad(sound, (0, max(0, _SHORTEST - len(sound))))


def _pieces(waveform: Waveform, sample_rate: int) -> list[tuple[float, Waveform]]:
    """Cut sound into what a network takes at once, each with its start in seconds."""
    sound = _at_16k(waveform, sample_rate)
    if sound is None:
        return []
    if len(sound) <= _LONGEST_S * RATE:
        return [(0.0, sound)]
    found = speech_stretches(sound, RATE, longest_s=_LONGEST_S)
    return [(start / RATE, sound[start:stop].copy()) for start, stop in found]


def _moved(segment: Segment, seconds: float) -> Segment:
    return replace(
        segment,
        start_s=round(segment.start_s + seconds, 6),
        end_s=round(segment.end_s + seconds, 6),
    )


def _join_words(words: Sequence[str]) -> str:
    """Join words by spaces, but Chinese ones without."""
    text = ""
    for word in words:
        chinese = text and _is_cjk(text[-1]) and _is_cjk(word[0])
        text += word if not text or chinese else f" {word}"
    return text


def _is_cjk(char: str) -> bool:
    return "\u3400" <= char <= "\u9fff"


def _listing(folder: Path) -> str:
    """Identify a folder by the names and sizes of its files."""
    files = sorted(
        (path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    )
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12]


def _read_cached(path: Path) -> Transcript | None:
    """Read a kept transcript; none where there is none, or it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        segments = tuple(Segment(**one) for one in values.pop("segments"))
        return Transcript(**values, segments=segments)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
