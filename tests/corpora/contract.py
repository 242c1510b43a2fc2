"""What every corpus module must keep to; used by the tests of ours and of the documentation's."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
import pytest
import soundfile

from serkit import corpora
from serkit.audio import probe
from serkit.corpora.check import check_corpus, verify_audio
from serkit.corpora.manifest import CorpusCounts, CorpusError, sort_utterances
from serkit.labels import EMOTIONS

_TURNS = {
    "Ses01F_impro01": ("F000 neu", "M000 ang", "M001 exc", "M002 hap"),
    "Ses01M_script01_1": ("F000 sad", "M000 fru", "M001 fea"),
    "Ses05F_impro05": ("F000 sur", "F001 dis", "M000 oth", "M001 xxx"),
}


def _iemocap_texts() -> dict[str, str]:
    texts = {}
    for dialogue, turns in _TURNS.items():
        folder = f"Session{dialogue[4]}/dialog"
        evaluation = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        transcription = ""
        for i, turn in enumerate(turns):
            name, label = turn.split()
            start, end = i * 0.5, i * 0.5 + 0.4
            evaluation += (
                f"[{start:.4f} - {end:.4f}]\t{dialogue}_{name}\t{label}\t[2.5000, 3.0000, 4.5000]\n"
                "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
            )
            transcription += f"{dialogue}_{name} [{start:08.4f}-{end:08.4f}]: Words of turn {i}.\n"
        texts[f"{folder}/EmoEvaluation/{dialogue}.txt"] = evaluation
        texts[f"{folder}/transcriptions/{dialogue}.txt"] = transcription
    return texts


# Files that a reader needs beside the sound files: corpus -> relative path -> text.
TEXTS: dict[str, Mapping[str, str]] = {
    "cai": {
        "iemocap/iemocap_01F.test.csv": "file,emotion,text\n"
        'wavs/Ses01F_impro01_F000.wav,e0,"EXCUSE ME ."\n'
        'wavs/Ses01F_impro01_M011.wav,e2,"NO ."\n'
        'wavs/Ses01F_impro02_F000.wav,e3,"DID YOU GET THE MAIL ."\n'
        'wavs/Ses01F_impro03_F000.wav,e1,"WELL . VEGAS {LG} ."\n',
        "iemocap/iemocap_01F.train.csv": "file,emotion,text\n"
        'wavs/Ses01M_script01_1_F003.wav,e0,"YES ."\n',
    },
    "iemocap": _iemocap_texts(),
    "table": {
        "clips.csv": "file,emotion,speaker,text\nclips/one.wav,Anger,ann,Hello.\n"
        "clips/two.wav,joy,ann,Hello.\nclips/three.wav,anger,ben,Hello.\n"
        "clips/four.wav,joy,ben,Hello.\n"
    },
}


def mosei_labels(
    videos: Mapping[str, Sequence[tuple[float, ...]]], *, sequence: str = "All Labels"
) -> bytes:
    """Make a label file as the CMU Multimodal SDK writes it.

    Each clip of a video is start, end, sentiment, happy, sad, anger, surprise, disgust, fear.
    """
    h5py = pytest.importorskip("h5py")
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for video, clips in videos.items():
            rows = np.asarray(clips, dtype=np.float32).reshape(-1, 9)
            file[f"{sequence}/data/{video}/intervals"] = rows[:, :2]
            file[f"{sequence}/data/{video}/features"] = rows[:, 2:]
        file[f"{sequence}/metadata/root name"] = [b'"All Labels"']
        file[f"{sequence}/metadata/dimension names"] = [b'["sentiment", "happy"]']
    return content.getvalue()


def files_of(key: str) -> Mapping[str, str | bytes]:
    """Files that a reader needs beside the sound files: relative path -> content."""
    if key != "cmu_mosei":
        return TEXTS.get(key, {})
    labels = mosei_labels(
        {
            "--qXJuDtHPw": [(0.0, 0.4, -1, 0, 0, 2, 0, 0, 0)],
            "-3g5yACwYnA": [(0.1, 0.5, 1, 0, 0, 0, 0, 0, 0), (0, 0.2, 0, 0.4, 0, 0, 0, 0, 0)],
            "102858": [(0.0, 0.3, 0, 0, 1, 0, 0, 0, 0)],
            "_0efYOjQYRc": [(0.0, 9.0, 2, 1, 0, 0, 0, 0, 0)],
            "hh04W3xXa5s": [(-0.4, 0.4, 2, 0.66, 0.33, 0, 0, 0, 0)],
        }
    )
    words = "-3g5yACwYnA___0___0.1___0.5___One word.\n"
    return {
        "Labels/CMU_MOSEI_Labels.csd": labels,
        "Transcript/Segmented/Combined/-3g5yACwYnA.txt": words,
    }


def write_noise(
    path: Path, *, seed: int = 0, seconds: float = 0.5, sample_rate: int = 8000
) -> Path:
    """Write noise, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(0, 0.1, round(seconds * sample_rate))
    soundfile.write(path, samples.clip(-1, 1), sample_rate)
    return path


def build_tree(
    root: Path, names: Sequence[str], files: Mapping[str, str | bytes] | None = None
) -> Path:
    """Build a toy copy of a corpus: half-second files of noise under real names."""
    for seed, name in enumerate(names):
        write_noise(root / name, seed=seed)
    for name, content in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.encode()
        (root / name).write_bytes(data)
    return root


def assert_header(module: ModuleType) -> None:
    """Docstring and constants are there, of the right types."""
    assert module.__doc__
    assert len(module.__doc__.split()) > 20, "the docstring says where the corpus comes from"
    for name in ("TITLE", "LANGUAGE", "LICENSE", "CITATION", "URL_HINT"):
        assert isinstance(getattr(module, name), str), name
    assert module.TITLE
    assert module.LICENSE
    assert module.URL_HINT
    assert module.MANNER in ("acted", "elicited", "natural", "synthetic")
    assert isinstance(module.EXPECTED, CorpusCounts)
    assert isinstance(module.NAMES, tuple)
    assert isinstance(module.QUIRKS, tuple)
    assert all(isinstance(quirk, str) for quirk in module.QUIRKS)
    expected = module.EXPECTED
    if expected.n_utterances is not None and expected.per_label:
        assert sum(expected.per_label.values()) + expected.n_unlabelled == expected.n_utterances
        assert set(expected.per_label) <= set(EMOTIONS)


def assert_readable(key: str, module: ModuleType, root: Path) -> None:
    """Reading a toy copy gives sound utterances in a stable order."""
    utterances = module.read(root)
    assert len(utterances) == len(module.NAMES)
    ids = [one.id for one in utterances]
    assert len(set(ids)) == len(ids)
    for one in utterances:
        assert one.corpus == key
        assert one.label is None or one.label in EMOTIONS
        assert one.speaker
        assert not PurePosixPath(one.id).is_absolute()
        assert "\\" not in one.id
        assert not one.id.lower().endswith((".wav", ".flac"))
        assert one.path.is_absolute()
        assert one.path.is_file()
        assert 0 <= one.start_s < (one.end_s or probe(one.path).duration_s)
        assert (one.end_s or 0) <= probe(one.path).duration_s
    assert len({one.speaker for one in utterances}) >= 2
    labels = {one.label for one in utterances} - {None}
    assert labels == set(module.EXPECTED.per_label or labels), "NAMES cover every class"
    assert utterances == sort_utterances(reversed(utterances))
    assert utterances == module.read(root)
    assert ids == [one.id for one in module.read(Path(str(root)))]


def assert_hidden_files_do_not_matter(module: ModuleType, root: Path) -> None:
    """Files that operating systems leave behind change nothing."""
    before = module.read(root)
    first = before[0].path
    (first.parent / ".DS_Store").write_bytes(b"\x00")
    (first.parent / f"._{first.name}").write_bytes(b"\x00")
    assert module.read(root) == before


def assert_counts_are_checked(key: str, module: ModuleType, root: Path) -> None:
    """A toy copy is reported as incomplete, unless nothing is known in advance."""
    utterances = module.read(root)
    check = check_corpus(utterances, module.EXPECTED, corpus=key, names=module.NAMES)
    assert check.found.n_utterances == len(module.NAMES)
    if module.EXPECTED.n_utterances in (None, len(module.NAMES)):
        assert check.complete
        assert corpora.read_corpus(key, root) == utterances
    else:
        assert not check.complete
        assert any("Missing" in line for line in check.lines())
        with pytest.raises(CorpusError, match="--allow-incomplete"):
            corpora.read_corpus(key, root)
    assert corpora.read_corpus(key, root, allow_incomplete=True) == utterances
    again, check = corpora.load_corpus(key, root, allow_incomplete=True)
    assert again == utterances
    assert check.unexpected == ()


def assert_audio_is_measured(module: ModuleType, root: Path) -> None:
    """Every file of a toy copy opens and gets its length."""
    check = verify_audio(module.read(root), workers=2, decode=True)
    assert check.problems == ()
    assert all(one.duration_s and one.duration_s > 0 for one in check.utterances)


def assert_wrong_folder_is_refused(key: str, module: ModuleType, folder: Path) -> None:
    """A folder with nothing of the corpus, and a missing one, give one clear line."""
    empty = folder / "empty"
    empty.mkdir()
    for root in (empty, folder / "missing"):
        with pytest.raises(CorpusError) as caught:
            corpora.read_corpus(key, root, allow_incomplete=True)
        assert "\n" not in str(caught.value)
        assert str(root) in str(caught.value)


def assert_contract(key: str, module: ModuleType, folder: Path) -> None:
    """All of the above, in a folder of its own."""
    root = build_tree(folder / "corpus", module.NAMES, files_of(key))
    assert_header(module)
    assert_readable(key, module, root)
    assert_hidden_files_do_not_matter(module, root)
    assert_counts_are_checked(key, module, root)
    assert_audio_is_measured(module, root)
    assert_wrong_folder_is_refused(key, module, folder)
