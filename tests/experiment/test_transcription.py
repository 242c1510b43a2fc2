"""A speech recogniser from a table of recordings to a report."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from experiment import tone_words
from serkit.audio import load_audio
from serkit.experiment.config import ConfigError, CorpusConfig, check_experiment, preset_names
from serkit.experiment.progress import Quiet
from serkit.experiment.tasks import load_task, run_task
from serkit.experiment.transcription.parts import (
    LengthConfig,
    PartsConfig,
    corpus_symbols,
    read_spoken_corpus,
    read_symbols,
)
from serkit.experiment.transcription.run import TranscriptionConfig, run_transcription
from serkit.features.augment_list import AugmentList
from serkit.features.fbank import FbankConfig
from serkit.speech_recogniser import build_fbank, load_speech_recogniser
from serkit.training.asr_part import AsrCriterion, AsrPart, Spoken, feature_statistics
from serkit.types import InputError, Utterance

JOB = Path(__file__).with_name("asr_crew_job.py")
SMALL = {
    "name": "conformer",
    "width": 32,
    "n_blocks": 2,
    "n_heads": 2,
    "n_ffn": 64,
    "kernel": 7,
    "dropout": 0.0,
}


def settings(manifest: Path, **changes):
    values = {
        "name": "tones",
        "system": "Conformer",
        "corpus": {"manifest": str(manifest)},
        "front_end": {"preset": "asr", "n_mels": 40},
        "model": SMALL,
        "training": {
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "select_by": "cer",
            "accelerator": "cpu",
            "save_every_s": 0,
        },
    }
    for key, value in changes.items():
        under = values.get(key)
        values[key] = under | value if isinstance(under, dict) and key == "training" else value
    return values


def config(manifest: Path, **changes) -> TranscriptionConfig:
    return check_experiment(settings(manifest, **changes), TranscriptionConfig, source="test")


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> Path:
    return tone_words.manifest(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def learned(tones, tmp_path_factory) -> Path:
    """A run that learned to spell."""
    out = tmp_path_factory.mktemp("runs") / "learned"
    training = {"epochs": 16, "shortest_first": True, "clip_norm": 5.0}
    run_transcription(config(tones, training=training), out=out)
    return out


class Lines(Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def losses(out: Path) -> list[float]:
    rows = (out / "train" / "log.jsonl").read_text().splitlines()
    return [value for row in map(json.loads, rows) for value in (row["train_loss"], row["dev_cer"])]


def test_it_learns_to_spell_sentences_that_it_has_not_heard(learned):
    metrics = json.loads((learned / "metrics.json").read_text())
    for decoding in ("greedy", "beam"):
        assert metrics["decodings"][decoding]["cer"] < 0.1
    interval = metrics["decodings"]["greedy"]["cer_interval"]
    assert interval["low"] <= metrics["decodings"]["greedy"]["cer"] <= interval["high"]


def test_the_run_folder_holds_what_a_reader_needs(learned):
    for name in ("config.json", "folds.csv", "leaks.json", "run.json", "report.html"):
        assert (learned / name).stat().st_size
    rows = list(csv.DictReader((learned / "transcripts.csv").open(encoding="utf-8")))
    assert set(rows[0]) == {"id", "speaker", "seconds", "said", "greedy", "beam"}
    assert len(rows) == 6
    run = json.loads((learned / "run.json").read_text())
    assert run["protocol"] == {
        "split": "sentence",
        "selection": "best_dev",
        "select_by": "cer",
        "warnings": ["speaker-dependent"],
    }
    assert "Error rates" in (learned / "report.html").read_text()
    assert "character error rate" in (learned / "model" / "README.md").read_text()


def test_the_saved_recogniser_hears_what_the_run_heard(learned, tones):
    recogniser = load_speech_recogniser(learned)
    for row in csv.DictReader((learned / "transcripts.csv").open(encoding="utf-8")):
        sound, rate = load_audio(tones.parent / f"{row['id']}.wav")
        assert recogniser.transcribe_at(sound, rate).text == row["greedy"]


def test_a_finished_run_is_shown_again_without_training(learned, tones, tmp_path):
    out = shutil.copytree(learned, tmp_path / "run")
    before = (out / "model" / "model.safetensors").read_bytes()
    training = {"epochs": 16, "shortest_first": True, "clip_norm": 5.0}
    wanted = config(tones, training=training)
    with pytest.raises(ConfigError, match="holds a run already"):
        run_transcription(wanted, out=out)
    run_transcription(wanted, out=out, resume=True)
    assert (out / "model" / "model.safetensors").read_bytes() == before


def test_another_run_starts_from_its_weights(learned, tones, tmp_path):
    told = Lines()
    wanted = config(tones, start_from=str(learned), training={"epochs": 1, "learning_rate": 1e-5})
    run_transcription(wanted, out=tmp_path / "run", progress=told)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["decodings"]["greedy"]["cer"] < 0.1
    assert not any("start_from" in line for line in told.lines)
    wider = config(
        tones,
        start_from=str(learned),
        text={"min_count": 1_000},
        training={"epochs": 1},
        decoding=("greedy",),
    )
    run_transcription(wider, out=tmp_path / "wider", progress=told)
    assert any("2 tensors have another shape" in line for line in told.lines)


def start(out: Path, wanted, *, n: int = 1, die: int = 0, resume: bool = False) -> int:
    command = [sys.executable]
    if n > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    command += [str(JOB), str(out), json.dumps(wanted), str(die), "resume" if resume else "new"]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode != 0) == bool(die), done.stderr[-3000:]
    return done.returncode


def eventful(tones: Path, folder: Path) -> dict[str, object]:
    """Settings with everything that draws at random; 6 batches are an epoch."""
    effects = folder / "augment.json"
    effects.write_text(json.dumps([{"type": "noise"}, {"type": "speed"}, {"type": "specaug"}]))
    return settings(
        tones,
        augment=str(effects),
        front_end={"preset": "asr", "n_mels": 40, "dither": 1.0},
        model=SMALL | {"dropout": 0.1, "n_decoder_layers": 1, "n_reverse_layers": 1},
        training={"epochs": 3, "save_every_batches": 1},
    )


def stop_at(monkeypatch, call: int) -> None:
    """Stop the process, as Ctrl-C does, when so many batches have been asked for."""
    plain, calls = AsrPart.training_batch, []

    def batch(self, rows, *, seed, epoch):
        calls.append(epoch)
        if len(calls) == call:
            raise KeyboardInterrupt
        return plain(self, rows, seed=seed, epoch=epoch)

    monkeypatch.setattr(AsrPart, "training_batch", batch)


def assert_same_training(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    weights = [load_file(out / "model" / "model.safetensors") for out in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_that_was_stopped_within_an_epoch_ends_as_if_it_had_not_been(
    tones, tmp_path, monkeypatch
):
    wanted = check_experiment(eventful(tones, tmp_path), TranscriptionConfig, source="t")
    run_transcription(wanted, out=tmp_path / "a")
    with monkeypatch.context() as patched:
        stop_at(patched, 9)
        with pytest.raises(KeyboardInterrupt):
            run_transcription(wanted, out=tmp_path / "b")
    assert not (tmp_path / "b" / "model").exists()
    assert len(losses(tmp_path / "b")) == 2
    run_transcription(wanted, out=tmp_path / "b", resume=True)
    assert_same_training(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_a_process_that_was_killed_within_an_epoch_ends_as_if_it_had_not_been(tones, tmp_path):
    wanted = eventful(tones, tmp_path)
    start(tmp_path / "a", wanted)
    start(tmp_path / "b", wanted, die=9)
    start(tmp_path / "b", wanted, resume=True)
    assert_same_training(tmp_path / "a", tmp_path / "b")


def test_a_named_state_is_gone_on_from_instead_of_the_last(tones, tmp_path, monkeypatch):
    wanted = config(tones, training={"epochs": 2, "save_every_batches": 1})
    with monkeypatch.context() as patched:
        stop_at(patched, 4)
        with pytest.raises(KeyboardInterrupt):
            run_transcription(wanted, out=tmp_path / "run")
    kept, last = tmp_path / "kept.safetensors", tmp_path / "run" / "train" / "state.safetensors"
    shutil.copyfile(last, kept)
    with safe_open(kept, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        meta = json.loads(stored.metadata()["meta"])
    foreign = {"meta": json.dumps(meta | {"identity": "of another"})}
    save_file(tensors, tmp_path / "foreign.safetensors", metadata=foreign)
    last.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"foreign.*belongs to another training.*name a state of"):
        run_transcription(
            wanted, out=tmp_path / "run", resume_from=tmp_path / "foreign.safetensors"
        )
    assert last.read_bytes() == b"damaged"  # what is there stays until a fitting state is saved
    run_task(wanted, out=tmp_path / "run", resume_from=kept)
    run_transcription(wanted, out=tmp_path / "whole")
    assert_same_training(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(InputError, match="no such state"):
        run_transcription(wanted, out=tmp_path / "run", resume_from=tmp_path / "no")
    with pytest.raises(InputError, match=r"its training is over.*start_from"):
        run_transcription(wanted, out=tmp_path / "run", resume_from=kept)


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tones, tmp_path):
    wanted = settings(
        tones,
        model=SMALL | {"n_decoder_layers": 1},
        decoding=("greedy",),
        # Adam blows the rounding errors of gradients near 0 up to whole steps; eps holds them down.
        training={"adam_eps": 1e-2},
    )
    start(tmp_path / "alone", wanted)
    start(tmp_path / "two", wanted, n=2)
    assert losses(tmp_path / "alone") == pytest.approx(losses(tmp_path / "two"), rel=1e-4)
    one, two = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "two")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_tiny_preset_spells_unseen_sentences_of_seen_voices(tmp_path):
    pytest.importorskip("espeakng_loader")
    from serkit.corpora.spoken_words import MANIFEST, generate_words

    generate_words(tmp_path / "words", n_sentences=300)
    wanted = load_task(
        "asr/tiny",
        overrides=[
            f"corpus.manifest={json.dumps(str(tmp_path / 'words' / MANIFEST))}",
            "training.epochs=7",
        ],
    )
    run_transcription(wanted, out=tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["decodings"]["greedy"]["cer"] < 0.1


@pytest.mark.parametrize("name", [one for one in preset_names() if one.startswith("asr/")])
def test_every_preset_is_understood(name):
    wanted = load_task(name, overrides=["corpus.manifest=x.csv"])
    assert isinstance(wanted, TranscriptionConfig)
    assert wanted.training.select_by == "cer"
    assert (wanted.training.save_every_s, wanted.training.save_every_batches) == (0, 10_000)
    build_fbank(wanted.front_end)


# Parts and symbols


def corpus(manifest: Path, *, dev=None, test=None, length=None, **parts):
    return read_spoken_corpus(
        CorpusConfig(manifest=str(manifest)),
        parts=PartsConfig(**parts),
        length=length or LengthConfig(),
        dev=dev,
        test=test,
        corpora_dir=None,
        progress=Quiet(),
    )


def test_sentences_are_not_shared_and_a_tenth_of_them_is_dev_and_test(tones):
    found = corpus(tones)
    assert [len(found.part(name)) for name in ("train", "dev", "test")] == [48, 6, 6]
    words = [{u.sentence for u in found.part(name)} for name in ("train", "dev", "test")]
    assert not words[0] & words[1]
    assert not words[0] & words[2]
    assert found.split == "sentence"
    assert corpus(tones).fold == found.fold
    assert corpus(tones, seed=1).fold != found.fold


def test_speakers_are_not_shared_if_they_are_to_be_kept_apart(tones):
    found = corpus(tones, split="speaker")
    speakers = [{u.speaker for u in found.part(name)} for name in ("train", "dev", "test")]
    assert [len(one) for one in speakers] == [1, 1, 1]
    assert len(set.union(*speakers)) == 3


def test_unknown_speakers_cannot_be_kept_apart(tmp_path):
    path = tone_words.manifest(tmp_path, 6, speakers=0)
    with pytest.raises(ConfigError, match="does not say who speaks"):
        corpus(path, split="speaker")


def test_a_table_without_a_known_suffix_is_read_by_its_content(tmp_path):
    path = tone_words.manifest(tmp_path, 12, name="manifest.train", speakers=0)
    assert len(corpus(path).utterances) == 12


def test_separate_manifests_are_the_parts(tmp_path):
    train = tone_words.manifest(tmp_path / "train", 12)
    test = tone_words.manifest(tmp_path / "test", 20)
    found = corpus(train, test=str(test))
    assert len(found.part("test")) == 20
    assert len(found.part("train")) + len(found.part("dev")) == 12
    dev = tone_words.manifest(tmp_path / "dev", 8)
    both = corpus(train, dev=str(dev), test=str(test))
    assert both.split == "manifests"
    assert [len(both.part(name)) for name in ("train", "dev", "test")] == [12, 8, 20]


def test_what_is_left_out_is_counted(tmp_path):
    path = tone_words.manifest(tmp_path, 12)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["text"], rows[1]["duration"], rows[2]["duration"] = "[LAUGHTER]", 0.1, 99.0
    del rows[3]["text"]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert corpus(path).counts == {
        "no words in the transcript": 1,
        "shorter than 0.5 s": 1,
        "longer than 20 s": 1,
        "no transcript": 1,
    }
    with pytest.raises(InputError, match="no utterance of the corpus can be used"):
        corpus(path, length=LengthConfig(longest_s=0.6))


def test_too_few_sentences_are_refused(tmp_path):
    path = tone_words.manifest(tmp_path, 2)
    with pytest.raises(ConfigError, match="2 different sentences or speakers"):
        corpus(path)


def test_missing_parts_are_refused(tones):
    with pytest.raises(ConfigError, match="the train part is empty"):
        corpus(tones, split="official")


def test_features_of_other_people_are_no_sound():
    with pytest.raises(ConfigError, match="trained on sound"):
        read_spoken_corpus(
            CorpusConfig(name="casia", features="CASIA.npy"),
            parts=PartsConfig(),
            length=LengthConfig(),
            dev=None,
            test=None,
            corpora_dir=None,
            progress=Quiet(),
        )


def test_chinese_has_no_symbol_for_the_end_of_a_word():
    symbols = corpus_symbols(["你好,世界", "你好 "], min_count=2, unknown="<unk>")
    assert symbols.symbols == ("<blank>", "<unk>", "你", "好", "<eos>")
    assert symbols.encode("你们") == [2, 1]


def test_symbols_are_read_from_a_file(tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_text("<blank>\t-1\n<unk>\t0\na\t9\n<space>\t5\n<eos>\n")
    assert read_symbols(path, unknown="drop").symbols == ("<blank>", "<unk>", "a", "|", "<eos>")
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "a": 1}')
    assert read_symbols(tmp_path / "vocab.json", unknown="drop").symbols == ("<pad>", "a")
    path.write_text("a\nb\n")
    with pytest.raises(InputError, match=r"vocabulary\.txt: symbols"):
        read_symbols(path, unknown="drop")
    with pytest.raises(InputError, match="cannot be read"):
        read_symbols(tmp_path / "no.txt", unknown="drop")


def test_published_styles_need_symbols(tones, tmp_path):
    with pytest.raises(ConfigError, match="needs a file of them"):
        run_transcription(config(tones, text={"style": "mmer"}), out=tmp_path / "run")


# The part that is trained on


def part(folder: Path, **options) -> AsrPart:
    path = tone_words.manifest(folder, 5)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    spoken = [
        Spoken(
            Utterance(
                id=f"u{i}",
                path=folder / row["audio_filepath"],
                corpus="t",
                label=None,
                speaker="s",
                duration_s=row["duration"],
            ),
            row["text"],
            tuple(range(1, 2 + i)),
        )
        for i, row in enumerate(rows)
    ]
    front = build_fbank({"preset": "asr", "n_mels": 40} | options.pop("front", {}))
    return AsrPart(spoken, front, **options)


def test_a_batch_has_frames_and_symbols_with_their_lengths(tmp_path):
    made = part(tmp_path)
    batch = made.training_batch(torch.tensor([1, 3]), seed=0, epoch=1)
    assert batch["n_frames"].tolist() == made.lengths()[[1, 3]].tolist()
    assert batch["features"].shape == (2, int(batch["n_frames"].max()), 40)
    assert batch["ctc"].tolist() == [[1, 2, -100, -100], [1, 2, 3, 4]]
    assert batch["tokens"].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    assert batch["n_tokens"].tolist() == [2, 4]


def test_augmentation_is_a_function_of_seed_epoch_and_utterance(tmp_path):
    effects = [{"type": "speed", "params": {"factors": [0.9, 1.1]}}, {"type": "specaug"}]
    front = {"dither": 1.0}

    def features(rows, epoch, seed=0):
        torch.manual_seed(int(torch.randint(1_000, ())))  # what else draws is no matter
        made = part(tmp_path, augment=AugmentList(effects, seed=seed), front=front)
        batch = made.training_batch(torch.tensor(rows), seed=seed, epoch=epoch)
        return [f[:n] for f, n in zip(batch["features"], batch["n_frames"], strict=True)]

    both = features([0, 1], 2)
    assert torch.equal(both[1], features([1], 2)[0])
    assert both[1].shape != (x := features([1], 3)[0]).shape or not torch.equal(both[1], x)
    assert not torch.equal(both[1], features([1], 2, seed=1)[0][: len(both[1])])


def test_without_augmentation_every_epoch_is_the_same(tmp_path):
    made = part(tmp_path, augment=None)
    one, other = (made.training_batch(torch.arange(5), seed=e, epoch=e) for e in (1, 2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("memory_mib", [0.0, 0.1, 100.0])
def test_what_is_kept_in_memory_changes_nothing(tmp_path, memory_mib):
    made = part(tmp_path, memory_mib=memory_mib)
    first = made.training_batch(torch.arange(5), seed=0, epoch=1)["features"]
    again = made.training_batch(torch.arange(5), seed=0, epoch=1)["features"]
    assert torch.equal(first, again)
    assert torch.equal(
        first, part(tmp_path).training_batch(torch.arange(5), seed=0, epoch=1)["features"]
    )


def test_statistics_are_those_of_all_frames(tmp_path):
    made = part(tmp_path)
    frames = torch.cat([made.features(row) for row in range(5)])
    mean, istd = feature_statistics(made, most=10)
    torch.testing.assert_close(mean, frames.mean(0))
    torch.testing.assert_close(1 / istd, frames.std(0, correction=0), rtol=1e-3, atol=1e-3)


def test_shares_of_a_batch_sum_to_its_loss():
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "asr": torch.randn(4, 9, 6, generator=generator),
        "n_asr": torch.tensor([9, 8, 9, 7]),
        "decoder": torch.randn(4, 4, 6, generator=generator),
    }
    tokens = torch.randint(1, 5, (4, 3), generator=generator)
    batch = {"ctc": tokens, "tokens": tokens, "n_tokens": torch.full((4,), 3)}
    criterion = AsrCriterion()

    def loss(rows):
        kept = [{k: t[rows] for k, t in one.items()} for one in (outputs, batch)]
        return criterion.loss(*kept, share=len(range(4)[rows]) / 4)

    torch.testing.assert_close(loss(slice(0, 3)) + loss(slice(3, 4)), loss(slice(0, 4)))


def test_a_hybrid_loss_is_the_weighted_sum():
    outputs = {
        "asr": torch.randn(2, 9, 6),
        "n_asr": torch.tensor([9, 8]),
        "decoder": torch.randn(2, 4, 6),
    }
    tokens = torch.tensor([[1, 2, 3], [3, 2, 1]])
    batch = {"ctc": tokens, "tokens": tokens, "n_tokens": torch.tensor([3, 3])}

    def loss(weight):
        return AsrCriterion(ctc_weight=weight).loss(outputs, batch, share=1.0)

    torch.testing.assert_close(loss(0.3), 0.3 * loss(1.0) + 0.7 * loss(0.0))
    alone = {k: v for k, v in outputs.items() if k != "decoder"}
    torch.testing.assert_close(AsrCriterion().loss(alone, batch, share=1.0), loss(1.0))


def test_dither_is_off_outside_of_training(tmp_path):
    made = part(tmp_path, front={"dither": 5.0})
    assert isinstance(made.front_end.config, FbankConfig)
    assert torch.equal(made.features(0), part(tmp_path).features(0))
