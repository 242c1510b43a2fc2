"""A checkpoint judged on a manifest: truth beside scores, for 'serkit evaluate'."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from experiment.spoken_tones import RATE, spoken_tones
from serkit.cli import app
from serkit.evaluation.predictions import read_predictions
from serkit.evaluation.summary import evaluate_tables
from serkit.experiment.scoring import score_manifest
from serkit.features.text import build_text_encoder, write_text_features
from serkit.recognizer import Recognizer, RecognizerConfig, load_recognizer
from serkit.types import InputError

MAP = {"high-a": "happy", "high-b": "happy", "low-a": "sad", "low-b": "sad"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return spoken_tones(tmp_path_factory.mktemp("tones"), n_takes=1)


def checkpoint(
    folder: Path,
    *,
    text: dict[str, object] | None = None,
    multi: bool = False,
    classes: tuple[str, ...] = ("happy", "sad"),
    **trained_on: object,
) -> Path:
    torch.manual_seed(0)
    model = {"name": "pooled", "n_projected": 8}
    if text is not None:
        model = {"name": "mmer", "width": 8, "n_heads": 2, "n_symbols": 0, "contrastive": False}
    recognizer = Recognizer(
        RecognizerConfig(
            system="toy",
            classes=classes,
            view={"kind": "whole"},
            front_end={"name": "mfcc", "preset": "moe-26", "sample_rate": RATE},
            model=model,
            text=text,
            multi_label=multi,
            trained_on={"corpus": "Toys", "protocol": {"warnings": ["selected on test"]}}
            | trained_on,
        )
    )
    return recognizer.save(folder)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_checkpoint_is_judged_on_a_manifest(manifest, tmp_path):
    model = checkpoint(tmp_path / "model")
    scored = score_manifest(model, manifest, tmp_path / "said.csv", label_map=MAP)
    assert scored.n_utterances == 16
    table = read_predictions(tmp_path / "said.csv")
    assert table.classes == ("happy", "sad")
    assert set(table.speakers) == {"ann", "bob", "cem", "dee"}
    assert table.truth[0] == "happy"
    recognizer, known = load_recognizer(model), rows(manifest)
    for number in (0, 15):
        path = manifest.parent / known[number]["path"]
        expected = recognizer.predict_file(path).scores
        assert table.scores is not None
        assert dict(zip(table.classes, table.scores[number], strict=True)) == pytest.approx(
            dict(expected), abs=1e-5
        )
    assert evaluate_tables([scored.path])[0].to_dict()
    assert any("nothing keeps its speakers apart" in note for note in scored.notes)
    assert "the checkpoint is: selected on test" in scored.notes
    assert scored.lines()[-1] == f"predictions: {tmp_path / 'said.csv'}"
    assert scored.to_dict()["n_utterances"] == 16


def test_other_classes_are_left_out_and_counted(manifest, tmp_path):
    mapping = {"high-a": "happy", "low-a": "sad"}
    model = checkpoint(tmp_path / "model")
    scored = score_manifest(model, manifest, tmp_path / "said.csv", label_map=mapping)
    assert scored.n_utterances == len(rows(tmp_path / "said.csv")) == 8
    assert any(note.startswith("8 of 16 utterances have a label") for note in scored.notes)
    with pytest.raises(InputError, match=r"no utterance has a label among .* it has high-a, high"):
        score_manifest(model, manifest, tmp_path / "said.csv")


def test_a_single_expert_is_judged_by_its_class_and_all_others(manifest, tmp_path):
    expert = {"classes": ("low-a", "not low-a"), "expert_of": {"multi_label": False}}
    scored = score_manifest(checkpoint(tmp_path / "low", **expert), manifest, tmp_path / "said.csv")
    assert scored.n_utterances == 16
    assert "every class but low-a counts as not low-a" in scored.notes
    table, known = read_predictions(tmp_path / "said.csv"), rows(manifest)
    assert {row["label"] for row in known} == set(MAP)
    assert list(table.truth) == ["not " * (row["label"] != "low-a") + "low-a" for row in known]
    assert evaluate_tables([scored.path])[0].to_dict()
    stranger = expert | {"classes": ("fear", "not fear")}
    with pytest.raises(InputError, match=r"no utterance has a label among .*, fear: it has high-a"):
        score_manifest(checkpoint(tmp_path / "fear", **stranger), manifest, tmp_path / "none.csv")


def test_a_manifest_is_looked_for_below_the_corpora(manifest, tmp_path):
    model = checkpoint(tmp_path / "model")
    name, folder = Path(manifest.name), manifest.parent
    scored = score_manifest(model, name, tmp_path / "s.csv", corpora_dir=folder, label_map=MAP)
    assert scored.n_utterances == 16


def test_several_classes_may_hold(manifest, tmp_path):
    model = checkpoint(tmp_path / "model", multi=True)
    score_manifest(model, manifest, tmp_path / "said.csv", label_map=MAP)
    assert read_predictions(tmp_path / "said.csv").multi_label


def test_words_come_from_the_manifest(manifest, tmp_path):
    model = checkpoint(tmp_path / "model", text={"name": "small"})
    score_manifest(model, manifest, tmp_path / "said.csv", label_map=MAP)
    first = rows(manifest)[0]
    recognizer = load_recognizer(model)
    expected = recognizer.predict_file(manifest.parent / first["path"], text=first["transcript"])
    got = rows(tmp_path / "said.csv")[0]
    assert float(got["score_happy"]) == pytest.approx(expected.scores["happy"], abs=1e-4)


def test_vectors_come_from_their_folder(manifest, tmp_path):
    encoder = build_text_encoder("small", {"n_features": 4})
    texts = {row["id"]: row["transcript"] for row in rows(manifest)}
    folder = write_text_features(tmp_path / "vectors", encoder, texts)
    model = checkpoint(tmp_path / "m", text={"name": "precomputed", "folder": str(folder)})
    out = tmp_path / "said.csv"
    with pytest.raises(InputError, match="this checkpoint reads token vectors that were computed"):
        score_manifest(model, manifest, out, label_map=MAP)
    score_manifest(model, manifest, out, label_map=MAP, text_features=folder)
    first = rows(manifest)[0]
    recognizer = load_recognizer(model)
    expected = recognizer.predict_file(
        manifest.parent / first["path"], text_features=np.load(folder / f"{first['id']}.npy")
    )
    assert float(rows(out)[0]["score_happy"]) == pytest.approx(expected.scores["happy"], abs=1e-4)
    (folder / f"{first['id']}.npy").unlink()
    with pytest.raises(InputError, match="1 of 16 utterances have no vectors"):
        score_manifest(model, manifest, out, label_map=MAP, text_features=folder)


def test_files_that_cannot_be_used_are_counted(manifest, tmp_path):
    model = checkpoint(tmp_path / "model")
    lines = manifest.read_text(encoding="utf-8").splitlines()
    broken = [line.replace(".wav", ".gone", 1) for line in lines[1:4]]
    other = manifest.with_name("broken.csv")
    other.write_text("\n".join([lines[0], *broken, *lines[4:]]) + "\n", encoding="utf-8")
    out = tmp_path / "said.csv"
    result = score_manifest(model, other, out, label_map=MAP)
    assert [row["id"] for row in rows(out)] == [row["id"] for row in rows(other)[3:]]
    assert len(result.errors) == 3
    assert ".gone: no such file" in result.errors[0]
    assert "3 of 16 utterances cannot be recognised" in result.notes[-1]
    mapped = [word for pair in MAP.items() for word in ("--map", "=".join(pair))]
    arguments = ["score", str(other), "--model", str(model), "--out", str(out), *mapped]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "3 of 16 files could not be used; first:" in done.stderr


def test_where_no_file_can_be_used_there_is_no_table(manifest, tmp_path):
    model = checkpoint(tmp_path / "model")
    other = manifest.with_name("broken.csv")
    other.write_text(
        manifest.read_text(encoding="utf-8").replace(".wav", ".gone"), encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"\.gone: no such file.* \(and 15 more\)"):
        score_manifest(model, other, tmp_path / "said.csv", label_map=MAP)
    assert not (tmp_path / "said.csv").exists()


def test_a_manifest_is_scored_and_evaluated_from_the_command_line(manifest, tmp_path):
    model, out = checkpoint(tmp_path / "model"), tmp_path / "said.csv"
    arguments = ["score", str(manifest), "--model", str(model), "--out", str(out)]
    mapped = [word for pair in MAP.items() for word in ("--map", "=".join(pair))]
    done = CliRunner().invoke(app, [*arguments, *mapped])
    assert done.exit_code == 0, done.output
    judged = CliRunner().invoke(app, ["evaluate", str(out)])
    assert "UAR (UA)" in judged.output
    wrong = CliRunner().invoke(app, [*arguments, "--map", "high-a"])
    assert "expected label=model's label" in str(wrong.exception)
