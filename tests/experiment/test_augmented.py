"""Augmented views: whose they are, in whose voice, how many are missing; and a run with them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkit.experiment.augmented import HEARS_TEST, augmented_views, match_sounds, read_texts
from serkit.experiment.config import ConfigError, experiment_from_table
from serkit.experiment.progress import Quiet
from serkit.experiment.reading import CorpusPart
from serkit.experiment.run import run_experiment
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.training.data import read_data
from serkit.types import Fold, InputError, Utterance
from tests_support import tone

RATE = 16_000
SPEAKERS = ("ann", "bob", "cem")
IDS = [f"{speaker}-{take}" for speaker in SPEAKERS for take in range(4)]


class Listener(Quiet):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def write_sound(path, seed: int = 0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(200 + 20 * seed, seconds=0.15, rate=RATE, seed=seed), RATE)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three speakers with four utterances each, two classes, in a manifest."""
    folder = tmp_path_factory.mktemp("corpus")
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "corpus", "label", "speaker", "transcript"])
        for number, identity in enumerate(IDS):
            write_sound(folder / f"{identity}.wav", number)
            label = ("happy", "sad")[number % 2]
            row = [identity, f"{identity}.wav", "toy", label, identity[:3], f"word {number}"]
            writer.writerow(row)
    return folder


def utterance(identity: str, speaker: str, folder) -> Utterance:
    path = folder / f"{identity}.wav"
    return Utterance(
        id=identity, path=path, corpus="toy", label="sad", speaker=speaker, transcript="word"
    )


def named(ids, *, speaker="s"):
    return [utterance(identity, speaker, Path("nowhere")) for identity in ids]


def owners(folder, files, ids) -> dict[str, str]:
    for name in files:
        write_sound(folder / name)
    sounds, _ = match_sounds(folder, named(ids))
    return {s.path.relative_to(folder).as_posix(): ids[s.owner] for s in sounds}


def test_a_file_belongs_to_the_longest_id_that_its_name_ends_with(tmp_path):
    ids = ["Ses01F_impro01_F000", "F000", "impro01_F000", "1", "11", "a/b/x"]
    files = {
        "Ses02M_script01_M_Ses01F_impro01_F000.wav": "Ses01F_impro01_F000",
        "Ses01F_impro01_F000.wav": "Ses01F_impro01_F000",
        "voice_impro01_F000.flac": "impro01_F000",
        "voice-F000.wav": "F000",
        "x_11.wav": "11",
        "x_1.wav": "1",
        "x_21.wav": None,
        "xF000.wav": None,
        "a/b/x.wav": "a/b/x",
        "1/anything.wav": "1",
        "bob/voice_11.wav": "11",
        "a/b/x/one.wav": "a/b/x",
    }
    expected = {name: identity for name, identity in files.items() if identity}
    assert owners(tmp_path, files, ids) == expected
    _, others = match_sounds(tmp_path, named(ids))
    assert {path.name for path in others} == {"x_21.wav", "xF000.wav"}


def test_the_voice_is_told_by_ids_or_by_a_speaker_s_name(tmp_path):
    speakers = {
        "Ses01F_impro01_F000": "Ses01F",
        "Ses01F_impro01_M000": "Ses01M",
        "x": "s1",
        "y": "s12",
    }
    everyone = [named([identity], speaker=speaker)[0] for identity, speaker in speakers.items()]
    files = {
        "Ses01F_impro01_M_x.wav": {"Ses01M"},  # a turn of M in a dialogue where F wears markers
        "Ses01F_impro01_x.wav": {"Ses01F", "Ses01M"},
        "Ses01F_impro99_x.wav": {"Ses01F"},
        "s12-low_x.wav": {"s12"},
        "s1/x.wav": {"s1"},
        "y/s1.wav": {"s1"},
        "y/s1_y.wav": {"s1"},
        "tts_x.wav": set(),
        "x.wav": set(),
    }
    for name in files:
        write_sound(tmp_path / name)
    sounds, _ = match_sounds(tmp_path, everyone)
    got = {s.path.relative_to(tmp_path).as_posix(): set(s.voices) for s in sounds}
    assert got == {name: {f"toy/{v}" for v in voices} for name, voices in files.items()}


def settings(corpus, **augmented) -> dict:
    return {
        "name": "views",
        "system": "MMER",
        "corpus": {"manifest": str(corpus / "manifest.csv")},
        "protocol": {"split": "leave_one_speaker_out", "dev": "speaker"},
        "front_end": {"name": "mfcc", "preset": "timnet-code"},
        "view": {"kind": "whole"},
        "text": {"name": "small"},
        "model": {"name": "mmer", "width": 8, "n_heads": 2, "n_symbols": 0},
        "objective": [
            {"loss": "cross_entropy"},
            {"output": "contrast", "against": "contrast_augmented", "loss": "info_nce"},
        ],
        "training": {"epochs": 2, "batch_size": 4, "min_epochs": 1},
        "augmented": augmented,
    }


FOLDS = [
    Fold(name="f0", train=tuple(IDS[:4]), dev=tuple(IDS[4:8]), test=tuple(IDS[8:])),
    Fold(name="f1", train=tuple(IDS[4:8]), dev=tuple(IDS[:4]), test=tuple(IDS[8:])),
]


def find(corpus, tmp_path, table=None, *, authors=None, **augmented):
    """Find the views of the first two speakers; cem is never trained on."""
    table = table or settings(corpus, **augmented)
    config = experiment_from_table(table, source="test")
    recognizer = Recognizer(
        RecognizerConfig(
            system="MMER",
            classes=("happy", "sad"),
            view=config.view,
            front_end=config.front_end,
            model=config.model,
            text=config.text,
        )
    )
    everyone = [utterance(identity, identity[:3], corpus) for identity in IDS]
    listener = Listener()
    views, words = augmented_views(
        config,
        CorpusPart(everyone, {}, authors),
        FOLDS,
        recognizer,
        corpora_dir=tmp_path,
        cache_dir=tmp_path / "cache",
        progress=listener,
    )
    return views, words, listener.lines


def write_texts(path, rows):
    path.write_text("\n".join(["id,text", *rows]) + "\n", encoding="utf-8")


def test_views_are_counted_and_those_that_are_missing_are_said(corpus, tmp_path):
    for name in ("ann_ann-0", "ann_ann-1", "new_bob-0", "ann_cem-0", "ann_dee-0"):
        write_sound(tmp_path / "sounds" / f"{name}.wav")
    write_texts(tmp_path / "texts.csv", ["ann-0,what", "ann-0,again", "bob-1,is", "dee-0,x"])
    views, words, lines = find(corpus, tmp_path, audio="sounds", texts="texts.csv")
    assert lines[:3] == [
        f"1 sound files in {tmp_path / 'sounds'} are named after no utterance of this run and are "
        "not used, the first is ann_dee-0.wav",
        f"1 of 4 texts in {tmp_path / 'texts.csv'} have an id that is none of this run and are not "
        "used",
        "augmented views of 8 utterances that are trained on: 3 sound files, 0 sounds made, 3 "
        "texts; 4 have none, the first is ann-2",
    ]
    assert views.sound_owners.tolist() == [0, 1, 4]
    assert views.text_owners.tolist() == [0, 0, 5]
    assert len(views.sounds.n_frames) == len(views.texts.n_tokens) == 3
    assert words == ()


def test_sounds_are_made_of_every_utterance_that_is_trained_on_and_kept(corpus, tmp_path):
    make = {"n_views": 2, "effects": ["noise", "gain"]}
    views, _, lines = find(corpus, tmp_path, make=make)
    assert "0 sound files, 16 sounds made, 0 texts" in lines[0]
    assert "have none" not in lines[0]
    assert views.sound_owners.tolist() == [*range(8), *range(8)]
    again, _, _ = find(corpus, tmp_path, make=make)
    assert (views.sounds.n_cached, again.sounds.n_cached) == (0, 16)
    np.testing.assert_array_equal(again.sounds.features, views.sounds.features)
    first, second = np.split(views.sounds.features, 2)
    assert np.abs(first - second).max() > 0.1
    more, _, _ = find(corpus, tmp_path, make=make | {"n_views": 3})
    assert more.sounds.n_cached == 16
    other, _, _ = find(corpus, tmp_path, make=make | {"seed": 1})
    assert other.sounds.n_cached == 0


def test_voices_that_a_fold_is_judged_by_are_left_out_of_it_or_warned_of(corpus, tmp_path):
    for name in ("ann_ann-0", "cem_ann-1", "bob_bob-0", "new_bob-0"):
        write_sound(tmp_path / "sounds" / f"{name}.wav")
    views, words, lines = find(corpus, tmp_path, audio="sounds")
    assert lines[-1].startswith("of 4 augmented sound files, 1 to 2 are used in a fold")
    assert sorted(map(sorted, views.voices)) == [[], ["toy/ann"], ["toy/bob"], ["toy/cem"]]
    assert words == ()
    views, words, _ = find(corpus, tmp_path, audio="sounds", voices="any")
    assert (views.voices, views.speakers, words) == ((), {}, (HEARS_TEST,))


def test_a_fold_without_a_voice_left_is_refused(corpus, tmp_path):
    for name in ("ann_ann-0", "cem_bob-1", "ann_bob-0"):
        write_sound(tmp_path / "sounds" / f"{name}.wav")
    with pytest.raises(InputError, match="all 2 sounds of f1 are in the voices of its dev or test"):
        find(corpus, tmp_path, audio="sounds")


SPEECH = {"name": "mmer", "width": 8, "n_heads": 2, "n_symbols": 0, "streams": "speech"}
SEGMENTS = {"kind": "segments", "n_samples": 2000, "train_hop": 1000, "test_hop": 1000}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": [{"loss": "cross_entropy"}]}, "no term of the objective compares them: add"),
        (
            {"text": None, "model": SPEECH, "augmented": {"texts": "texts.csv"}},
            r"texts is for recognizers that read, .* has no \[text\]",
        ),
        ({"view": SEGMENTS}, r"\[augmented\] is about whole utterances"),
    ],
)
def test_views_that_nothing_can_use_are_refused(corpus, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        find(corpus, tmp_path, settings(corpus, make={}) | changes)


def test_views_are_refused_where_there_is_no_sound(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"\[augmented\] is for sound, and corpus.features"):
        find(corpus, tmp_path, make={}, authors=object())


def test_folders_and_sounds_that_cannot_be_used_are_refused(corpus, tmp_path):
    with pytest.raises(InputError, match=r"augmented\.audio: no folder .*nowhere: give the one"):
        find(corpus, tmp_path, audio="nowhere")
    write_sound(tmp_path / "sounds" / "x_dee-0.wav")
    with pytest.raises(InputError, match=r"none of 1 sound files in .*such as voice_ann-0\.wav"):
        find(corpus, tmp_path, audio="sounds")
    (tmp_path / "sounds" / "x_ann-0.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"x_ann-0\.wav: cannot be decoded as audio"):
        find(corpus, tmp_path, audio="sounds")
    with pytest.raises(InputError, match=r"augmented\.make\.n_views = 0"):
        find(corpus, tmp_path, make={"n_views": 0})
    with pytest.raises(InputError, match="rooms: no such file"):
        find(corpus, tmp_path, make={"impulses": "rooms"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,sentence\na,b\n", "no column text, got id, sentence: expected id and text"),
        (b"", "no column id and text, got nothing"),
        (b"id,text\na,b\nc\n", r"texts\.csv, line 3: expected an id and a text"),
        (b"id,text\na,\xff\n", r"texts\.csv: is no CSV in UTF-8"),
    ],
)
def test_tables_of_texts_that_cannot_be_used_are_refused(tmp_path, content, message):
    (tmp_path / "texts.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / "texts.csv")


def test_tables_of_texts_that_are_missing_or_of_another_corpus_are_refused(corpus, tmp_path):
    with pytest.raises(InputError, match=r"texts\.csv: cannot be read \(No such file"):
        find(corpus, tmp_path, texts="texts.csv")
    write_texts(tmp_path / "texts.csv", ["dee-0,x"])
    with pytest.raises(InputError, match="none of 1 ids is one of this run: expected ids such as"):
        find(corpus, tmp_path, texts="texts.csv")


def test_words_are_made_of_transcripts_and_said_by_voices_of_nobody(corpus, tmp_path, monkeypatch):
    (tmp_path / "beeper.py").write_text(
        "import numpy\n\ndef beep(text, rate):\n"
        "    return numpy.sin(numpy.arange(4000) / (5 + len(text)))\n\n"
        "def more(text, n_views):\n"
        "    return [text + ' more', text + ' still']\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = {"kind": "function", "function": "beeper:more", "n_views": 2}
    for texts, of_an_utterance in (("own", 1), ("augmented", 2)):
        speak = {"back_end": "beeper:beep", "texts": texts}
        table = settings(corpus, make_texts=made, speak=speak)
        views, words, lines = find(corpus, tmp_path, table)
        assert words == ()
        assert f"{8 * of_an_utterance} sound files, 0 sounds made, " in lines[-1]
    assert views.sound_owners.tolist() == [i for i in range(8) for _ in range(2)]
    assert all(not voices for voices in views.voices)


def test_vectors_of_other_words_are_read(corpus, tmp_path):
    for name, ids in (("own", IDS), ("other", IDS[:3])):
        (tmp_path / name).mkdir()
        for identity in ids:
            vectors = np.full((len(name), 4), IDS.index(identity), dtype=np.float32)
            np.save(tmp_path / name / f"{identity}.npy", vectors)
    table = settings(corpus, text_features=str(tmp_path / "other"))
    table |= {"text": {"name": "precomputed", "folder": str(tmp_path / "own")}}
    views, _, lines = find(corpus, tmp_path, table)
    assert views.text_owners.tolist() == [0, 1, 2]
    assert views.texts.n_tokens.tolist() == [5, 5, 5]
    assert "3 texts; 5 have none, the first is ann-3" in lines[-1]
    for name, value in (("texts", "t.csv"), ("make_texts", {"kind": "swap_words"})):
        with pytest.raises(InputError, match=f"augmented.{name} gives words, and text.name = 'pre"):
            find(corpus, tmp_path, table | {"augmented": {name: value}})
    table |= {"text": {"name": "small"}}
    with pytest.raises(InputError, match=r"text_features is for text\.name = 'precomputed'"):
        find(corpus, tmp_path, table)


@pytest.mark.parametrize("augmented", [None, {"voices": "any"}])
def test_a_loss_that_has_no_views_to_compare_is_said(corpus, tmp_path, augmented):
    table = settings(corpus) | {"augmented": augmented}
    views, words, lines = find(corpus, tmp_path, table)
    assert (views, words) == (None, ())
    assert lines[0].startswith("no augmented views: the loss that compares them has nothing to")
    _, _, lines = find(corpus, tmp_path, table | {"objective": [{"loss": "cross_entropy"}]})
    assert lines == []


def test_a_run_trains_with_views_and_says_whose_voices_it_heard(corpus, tmp_path, monkeypatch):
    for owner in ("ann-0", "bob-0", "cem-0"):
        for voice in SPEAKERS:
            write_sound(tmp_path / "sounds" / f"{voice}_{owner}.wav", seed=len(voice))
    write_texts(tmp_path / "texts.csv", [f"{identity},other word" for identity in IDS])
    table = settings(corpus, audio="sounds", texts="texts.csv", make={"n_views": 1}, voices="any")
    config = experiment_from_table(table, source="test")
    kept = []
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: kept.append(path))
    run_experiment(
        config,
        out=tmp_path / "out",
        corpora_dir=tmp_path,
        cache_dir=tmp_path / "cache",
        cohort=False,
    )
    run = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert HEARS_TEST in run["protocol"]["warnings"]
    views = read_data(kept[-1]).training.views
    assert len(views.sounds.rows[0]) == 4
    assert len(views.sounds.rows[1]) == 1
    assert len(views.texts.rows) == 12
