"""The authors' feature files: read as they are, and never obeyed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import pickletools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serkit.evaluation.predictions import read_predictions
from serkit.experiment.config import ConfigError, ExperimentConfig, load_experiment
from serkit.experiment.originals.timnet import read_author_corpus
from serkit.experiment.run import run_experiment
from serkit.features import author_features
from serkit.features.author_features import AuthorFileError, read_author_features
from serkit.recognizer import Recognizer, RecognizerConfig, load_recognizer

N, T, C = 12, 5, 4


def toy_dict(n: int = N, n_frames: int = T, n_classes: int = C) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).normal(-5, 40, (n, n_frames, 39)).astype(np.float32)
    y = np.eye(n_classes, dtype=np.float32)[np.arange(n) * n_classes // n]
    return {"x": x, "y": y}


def npy(pickled: bytes) -> bytes:
    """Put a pickle under the header that NumPy gives a dict."""
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + pickled


def saved(content: Any, *, protocol: int = 3, modules: str = "numpy.core") -> bytes:
    """Write what np.save writes; with protocol 3 and numpy.core, what it wrote for the authors."""
    pickled = pickle.dumps(np.array(content, dtype=object), protocol=protocol)
    for name in (b"numpy._core", b"numpy.core"):
        pickled = pickled.replace(name, modules.encode())
    return npy(pickled)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "TOY.npy"
        path.write_bytes(content)
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(AuthorFileError) as caught:
        read_author_features(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_files_of_the_published_layout_are_read(file):
    n = 300  # from 256 on a number takes two bytes, as in the published files
    content = toy_dict(n)
    path = file(saved(content))
    assert path.stat().st_size == 431 + 4 * n * (39 * T + C)
    features = read_author_features(path)
    np.testing.assert_array_equal(features.x, content["x"])
    assert features.x.dtype == np.float32
    assert features.y.tolist() == sorted([0, 1, 2, 3] * 75)
    assert features.n_classes == C
    assert features.class_counts == (75, 75, 75, 75)
    assert features.class_major
    assert features.original is None


def test_files_of_other_numpys_are_read(file):
    content = toy_dict()
    written = [saved(content), saved(content, modules="numpy._core")]
    for protocol in (3, 4, 5):
        pickled = pickle.dumps(np.array(content, dtype=object), protocol=protocol)
        written.append(npy(pickled))
    buffer = io.BytesIO()
    np.save(buffer, content)  # type: ignore[arg-type]
    for one in (*written, buffer.getvalue()):
        features = read_author_features(file(one))
        np.testing.assert_array_equal(features.x, content["x"])
        np.testing.assert_array_equal(features.y, content["y"].argmax(1))


@pytest.mark.parametrize("change", ["fortran", "double", "big endian", "integer labels"])
def test_arrays_of_other_layouts_are_read(file, change):
    content = toy_dict()
    x, y = content["x"], content["y"]
    other = {
        "fortran": {"x": np.asfortranarray(x), "y": np.asfortranarray(y)},
        "double": {"x": x.astype(np.float64), "y": y.astype(np.float64)},
        "big endian": {"x": x.astype(">f4"), "y": y.astype(">f4")},
        "integer labels": {"x": x, "y": y.astype(np.int64)},
    }[change]
    for protocol in (3, 4, 5):
        features = read_author_features(file(npy(pickle.dumps(np.array(other), protocol=protocol))))
        np.testing.assert_array_equal(features.x, x)
        assert features.x.dtype == np.float32
        np.testing.assert_array_equal(features.y, y.argmax(1))


def test_unordered_rows_are_noticed(file):
    content = toy_dict()
    content["y"] = content["y"][::-1]
    assert not read_author_features(file(saved(content))).class_major


def test_the_authors_own_files_are_recognised(file, monkeypatch):
    import hashlib

    path = file(saved(toy_dict()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    monkeypatch.setattr(author_features, "ORIGINALS", {digest: "TOY"})
    assert read_author_features(path).original == "TOY"
    assert all(len(key) == 16 for key in author_features.ORIGINALS)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def marker(tmp_path: Path) -> str:
    return f"echo done > {tmp_path / 'marker'}"


@pytest.mark.parametrize(
    ("bomb", "name"),
    [
        (lambda order: Call(os.system, order), "system"),
        (lambda order: Call(eval, f"__import__('os').system({order!r})"), "builtins.eval"),
        (lambda order: Call(exec, f"import os; os.system({order!r})"), "builtins.exec"),
        (lambda order: Call(getattr, Call(__import__, "os"), "system"), "builtins.getattr"),
        (lambda order: Call(np.load, "/etc/hostname"), "load"),
        (lambda order: Call(np.zeros, (10**12,)), "numpy.zeros"),
        (lambda order: Call(bytearray, 10**12), "builtins.bytearray"),
    ],
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_hostile_pickles_are_refused_and_not_run(file, tmp_path, bomb, name, protocol):
    pickled = pickle.dumps({"x": bomb(marker(tmp_path)), "y": 1}, protocol=protocol)
    message = refusal(file(npy(pickled)))
    assert "refused: its pickle asks for" in message
    assert name in message
    assert not (tmp_path / "marker").exists()


def test_a_hostile_object_beside_good_arrays_is_refused(file, tmp_path):
    content = toy_dict() | {"z": Call(os.system, marker(tmp_path))}
    assert "refused" in refusal(file(saved(content)))
    assert not (tmp_path / "marker").exists()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        # Old opcodes that call or import by other ways.
        (b"\x80\x02(cos\nsystem\nX\x02\x00\x00\x00lso.", "asks for 'os.system'"),
        (b"\x80\x02(ios\nsystem\n.", "the instruction INST"),
        (b"\x80\x02(cnumpy\nndarray\no.", "the instruction OBJ"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "the instruction NEWOBJ"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"Pname\n.", "the instruction PERSID"),
        (b"\x80\x04\x8f.", "the instruction EMPTY_SET"),
        # Known names in a way that allocates or changes things.
        (b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R.", "calls 'ndarray'"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "calls 'ndarray'"),
        (b"\x80\x02" + RECONSTRUCT + b")R.", "calls '_reconstruct' in an unknown way"),
        (b"\x80\x02" + RECONSTRUCT + b"}b.", "sets the state of something"),
        (b"\x80\x02NNR.", "calls something that is no function"),
        (b"\x80\x02}NNs.", "keys are not words"),
        (b"\x80\x02" + b"N" * 2000 + b".", "more than 1000 instructions"),
    ],
)
def test_hand_written_pickles_are_refused(file, pickled, reason):
    assert reason in refusal(file(npy(pickled)))


def with_shape(shape: tuple[int, ...], content: bytes = b"\0" * 16) -> bytes:
    """Pickle an array that claims a shape."""
    text = pickle.dumps(np.zeros((7, 7, 7), np.float32), protocol=3)
    text = text.replace(b"numpy._core", b"numpy.core")
    before, _, rest = text.partition(b"K\x07K\x07K\x07\x87")
    middle = rest[: rest.index(b"B\x5c\x05\x00\x00")]
    claimed = pickle.dumps(shape, protocol=2)[2:-1].replace(b"q\x00", b"")
    return before + claimed + middle + b"B" + len(content).to_bytes(4, "little") + content + b"tb."


def test_claims_of_size_are_compared_with_what_is_there(file):
    pickletools.dis(with_shape((2, 2)), out=io.StringIO())  # is a pickle
    assert "holds an array, not a dict" in refusal(file(npy(with_shape((2, 2)))))
    for shape in ((10**9, 10**9), (3, 2), (-1, 4), (1 << 62, 4)):
        assert "cut off or damaged" in refusal(file(npy(with_shape(shape))))
    # A length of four thousand million bytes, then of 2 ** 62, and nothing behind it.
    for claim in (b"B\xff\xff\xff\xff", b"\x8e" + (1 << 62).to_bytes(8, "little")):
        assert "cut off or damaged" in refusal(file(npy(b"\x80\x04" + claim)))
    # A memo of two thousand million slots is one entry here.
    assert "holds nothing, not a dict" in refusal(file(npy(b"\x80\x02Nr\xff\xff\xff\x7f.")))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_give_one_line(file, share):
    whole = saved(toy_dict())
    message = refusal(file(whole[: int(share * len(whole))]))
    assert any(words in message for words in ("empty", "not a NumPy file", "cut off or damaged"))


def test_damaged_bytes_never_end_in_anything_but_one_line(file):
    whole = saved(toy_dict(n=4, n_frames=1))
    rng = np.random.default_rng(0)
    n_refused = 0
    for position in [*range(330), *range(len(whole) - 130, len(whole))]:
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path = file(bytes(damaged))
        with contextlib.suppress(AuthorFileError):  # a changed number is still a number
            read_author_features(path)
            continue
        refusal(path)
        n_refused += 1
    assert n_refused > 300


def test_files_that_are_something_else_are_named(file, tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 5, 39), np.float32))
    assert "one plain array (<f4, shape (3, 5, 39))" in refusal(file(buffer.getvalue()))
    assert "not a NumPy file" in refusal(file(b"RIFF....WAVEfmt "))
    assert "not a NumPy file" in refusal(file(b"\x93NUMPY\x09\x00"))
    assert "the file is empty" in refusal(file(b""))
    assert "cannot be read" in refusal(tmp_path / "missing.npy")
    assert "cannot be read" in refusal(tmp_path)
    assert "holds a list, not a dict" in refusal(file(npy(pickle.dumps([1, 2]))))
    assert "holds an array, not a dict" in refusal(file(npy(pickle.dumps(np.zeros(3)))))
    words = npy(pickle.dumps(np.array(["a", "b"])))
    assert "an array of 'U1', expected numbers" in refusal(file(words))


def broken(**changes: Any) -> bytes:
    content: dict[str, Any] = toy_dict()
    for key, change in changes.items():
        content[key] = change(content[key])
    return saved(content)


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[(7, *[0] * (array.ndim - 1))] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x": lambda x: x[:, :, :20]}, r"x has shape (12, 5, 20), expected (n_utterances"),
        ({"x": lambda x: x[0]}, "x has shape (5, 39)"),
        ({"x": lambda x: x[:0], "y": lambda y: y[:0]}, "x has shape (0, 5, 39)"),
        ({"x": lambda x: x[:, :0]}, "x has shape (12, 0, 39)"),
        ({"x": lambda x: x.astype(np.int32)}, "x holds int32"),
        ({"x": put(np.nan)}, "row 7 of x holds NaN"),
        ({"x": put(-np.inf)}, "row 7 of x holds NaN or infinite"),
        ({"x": lambda x: [1, 2]}, "'x' is a list, expected an array"),
        ({"x": lambda x: [1.0, 2.0]}, "'x' is a list"),
        ({"y": lambda y: y[:-1]}, "y has shape (11, 4), expected (12, n_classes)"),
        ({"y": lambda y: y.argmax(1)}, "y has shape (12,)"),
        ({"y": lambda y: y[:, :1]}, "y has shape (12, 1)"),
        ({"y": put(1.0)}, "row 7 of y is not one-hot (and 0 more)"),
        ({"y": put(np.nan)}, "row 7 of y is not one-hot"),
        ({"y": lambda y: y * 0.9}, "row 0 of y is not one-hot (and 11 more)"),
        ({"y": lambda y: "labels"}, "'y' is a str"),
    ],
)
def test_wrong_arrays_are_explained(file, changes, reason):
    assert reason in refusal(file(broken(**changes)))


@pytest.mark.parametrize(("missing", "left"), [("x", "y"), ("y", "x")])
def test_a_missing_array_is_named(file, missing, left):
    content = toy_dict()
    del content[missing]
    assert f"the dict has no '{missing}', it has '{left}'" in refusal(file(saved(content)))


def test_an_empty_dict_is_named(file):
    assert "the dict has no 'x', it has nothing" in refusal(file(saved({})))


def test_an_object_of_other_arrays_is_refused(file):
    nested = {"x": np.array([np.zeros(3), None], dtype=object), "y": toy_dict()["y"]}
    assert "not a single dict" in refusal(file(saved(nested)))
    strange = {"x": toy_dict()["x"].astype(np.complex64), "y": toy_dict()["y"]}
    assert "an array of 'c8'" in refusal(file(saved(strange)))


# In an experiment


CASIA = ("angry", "fear", "happy", "neutral", "sad", "surprise")
SPEAKERS = ("liuchanhg", "wangzhe", "zhaoquanyin", "ZhaoZuoxiang")


@pytest.fixture
def casia(file) -> Path:
    """Six classes of eight utterances, five frames each."""
    return file(saved(toy_dict(48, n_classes=6)))


def experiment(path: Path, *overrides: str) -> ExperimentConfig:
    settings = (
        "corpus.name=casia",
        f"corpus.features={json.dumps(str(path))}",
        "corpus.allow_incomplete=true",
        "view.n_samples=2100",  # five frames
        "training.epochs=2",
        "protocol.n_folds=2",
        "model.n_scales=2",
    )
    return load_experiment("timnet/published-2023", overrides=[*settings, *overrides])


def casia_tree(root: Path) -> Path:
    """Make the file names of 4 speakers reading 2 texts in 6 emotions; no sound is read."""
    for speaker in SPEAKERS:
        for label in CASIA:
            for text in ("201", "202"):
                path = root / speaker / label / f"{text}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    return root


@pytest.fixture(scope="module")
def casia_run(tmp_path_factory) -> tuple[ExperimentConfig, Path]:
    """A finished run on the six classes, and its settings."""
    folder = tmp_path_factory.mktemp("casia")
    (folder / "TOY.npy").write_bytes(saved(toy_dict(48, n_classes=6)))
    config = experiment(folder / "TOY.npy")
    run_experiment(config, out=folder / "run", n_jobs=1)
    return config, folder / "run"


def test_an_experiment_runs_on_a_feature_file(casia_run):
    config, out = casia_run
    run = json.loads((out / "run.json").read_text("utf-8"))
    check = run["corpus"]["check"]
    assert "casia: features from TOY.npy" in check
    assert "not from sound" in check
    assert "the file names no speakers" in check
    assert run["corpus"]["complete"] is False
    assert run["corpus"]["n_speakers"] == 0
    assert "speaker-dependent" in run["protocol"]["warnings"]
    table = read_predictions(out / "predictions.csv")
    assert sorted(table.ids) == [f"row{i:04d}" for i in range(48)]
    assert set(table.speakers) == {""}
    y = toy_dict(48, n_classes=6)["y"].argmax(1)
    truth = dict(zip(table.ids, table.truth, strict=True))
    assert [truth[f"row{i:04d}"] for i in range(48)] == [CASIA[i] for i in y]
    assert "not from sound" in (out / "report.html").read_text("utf-8")
    model = load_recognizer(out)
    assert model.labels.classes == CASIA
    assert model.config.front_end["n_mfcc"] == 39
    assert model.config.channel == "mean"
    # The run goes on, or is shown again, from what its config.json says.
    run_experiment(config, out=out, n_jobs=1, resume=True)


def test_a_run_begun_before_a_key_existed_can_be_resumed(casia_run, tmp_path):
    config, finished = casia_run
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    stored = json.loads((out / "config.json").read_text("utf-8"))
    del stored["protocol"]["n_sentence_folds"]
    (out / "config.json").write_text(json.dumps(stored), "utf-8")
    run_experiment(config, out=out, n_jobs=1, resume=True)
    stored["training"]["epochs"] = 3
    (out / "config.json").write_text(json.dumps(stored), "utf-8")
    with pytest.raises(ConfigError, match="holds a run of other settings"):
        run_experiment(config, out=out, n_jobs=1, resume=True)


def test_features_of_rows_reach_the_right_utterances(casia):
    config = experiment(casia, 'labels.keep=["sad", "fear"]')
    corpus = read_author_corpus(config, casia)
    recognizer = recognizer_of(config, ("fear", "sad"))
    chosen = [u for u in corpus.utterances if u.label in ("sad", "fear")][::-1]
    features = corpus.extracted(recognizer, chosen)
    x = toy_dict(48, n_classes=6)["x"]
    rows = x[[*range(39, 31, -1), *range(15, 7, -1)]]
    np.testing.assert_array_equal(features.features, rows.reshape(-1, 39))
    assert features.n_frames.tolist() == [5] * 16
    assert len(set(features.audio_hashes.values())) == 16


def recognizer_of(config: ExperimentConfig, classes: tuple[str, ...]) -> Recognizer:
    return Recognizer(
        RecognizerConfig(
            system=config.system,
            classes=classes,
            view=config.view,
            front_end=config.front_end,
            model=config.model,
        )
    )


def test_rows_in_another_order_are_put_class_major(file):
    content = toy_dict(48, n_classes=6)
    path = file(saved({key: value[::-1].copy() for key, value in content.items()}))
    corpus = read_author_corpus(experiment(path), path)
    assert [u.label for u in corpus.utterances] == sorted(u.label for u in corpus.utterances)
    assert corpus.utterances[0].id == "row0040"
    assert corpus.rows["row0040"] == 40


def test_identical_rows_are_found_by_the_leak_check(file, tmp_path):
    content = toy_dict(48, n_classes=6)
    content["x"][1::2] = content["x"][::2]
    out = tmp_path / "run"
    run_experiment(experiment(file(saved(content))), out=out, n_jobs=1)
    leaks = json.loads((out / "leaks.json").read_text("utf-8"))
    assert any("identical recordings" in line for line in leaks["lines"])
    assert not any("overlapping" in line for line in leaks["lines"])


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["protocol.split=leave_one_speaker_out"], "protocol.split = 'leave_one_speaker_out'"),
        (["protocol.split=sentence_folds"], "protocol.split = 'sentence_folds'"),
        (["protocol.split=leave_one_session_out"], "protocol.split = 'leave_one_session_out'"),
        (["protocol.split=official"], "protocol.split = 'official'"),
        (["protocol.dev=speaker"], "protocol.dev = 'speaker'"),
        (["protocol.dev=sentence"], "protocol.dev = 'sentence'"),
    ],
)
def test_protocols_that_need_speakers_are_refused_with_the_reason(casia, overrides, rule):
    with pytest.raises(ConfigError, match="holds no speaker ids and no sentences") as caught:
        read_author_corpus(experiment(casia, *overrides), casia)
    assert rule in str(caught.value)
    assert "corpus.root" in str(caught.value)
    assert "random_folds" in str(caught.value)


def test_the_corpus_itself_gives_ids_speakers_and_sentences_by_position(casia, tmp_path):
    root = casia_tree(tmp_path / "casia")
    config = experiment(
        casia,
        f"corpus.root={json.dumps(str(root))}",
        "protocol.split=leave_one_speaker_out",
        "protocol.n_folds=4",
    )
    corpus = read_author_corpus(config, casia, root=root)
    assert "by position from the file names in casia" in corpus.summary
    # Natural order of names as if one folder held a class: text first, then speaker.
    first = [(u.label, u.sentence, u.speaker) for u in corpus.utterances[:8]]
    assert first == [("angry", t, s) for t in ("201", "202") for s in SPEAKERS]
    assert [corpus.rows[u.id] for u in corpus.utterances] == list(range(48))
    assert corpus.utterances[0].id == "liuchanhg/angry/201"
    assert corpus.utterances[0].path == root / "liuchanhg/angry/201.wav"


def test_with_the_corpus_itself_speakers_are_kept_apart(casia, tmp_path):
    root, out = casia_tree(tmp_path / "corpora" / "casia"), tmp_path / "run"
    assert root.is_dir()
    config = experiment(
        Path("TOY.npy"),
        "corpus.root=casia",
        "protocol.split=speaker_folds",
        "protocol.dev=none",
        "refit=false",
    )
    casia.rename(root.parent / "TOY.npy")  # both are looked for in the folder of corpora
    run_experiment(config, out=out, n_jobs=1, corpora_dir=root.parent)
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert run["protocol"]["speaker_independent"] is True
    assert run["corpus"]["n_speakers"] == 4
    assert set(read_predictions(out / "predictions.csv").speakers) == set(SPEAKERS)


def test_a_corpus_of_other_utterances_is_not_matched(casia, file, tmp_path):
    root = casia_tree(tmp_path / "casia")
    (root / "wangzhe" / "sad" / "202.wav").unlink()
    with pytest.raises(ConfigError, match=r"other utterances than the corpus .*\(sad 8 and 7\)"):
        read_author_corpus(experiment(casia), casia, root=root)
    content = toy_dict(48, n_classes=6)
    path = file(saved({key: value[::-1].copy() for key, value in content.items()}))
    with pytest.raises(ConfigError, match="rows of one class do not stand together"):
        read_author_corpus(experiment(path), path, root=root)


def test_a_complete_file_is_said_to_be_complete(file):
    counts = [60, 60, 60, 60, 120, 60, 60]  # SAVEE
    y = np.eye(7, dtype=np.float32)[np.repeat(np.arange(7), counts)]
    x = np.random.default_rng(0).normal(size=(480, 1, 39)).astype(np.float32)
    path = file(saved({"x": x, "y": y}))
    settings = ("corpus.name=savee", "corpus.allow_incomplete=false")
    corpus = read_author_corpus(experiment(path, *settings), path)
    assert corpus.complete
    assert corpus.summary == (
        "savee: features from TOY.npy, not one of the files that the authors published, not from "
        "sound: 480 utterances, 7 classes; the file names no speakers"
    )
    swapped = {"x": x, "y": y[:, ::-1]}
    path = file(saved(swapped))
    with pytest.raises(ConfigError, match=r"of another corpus \(fear 120 of 60, neutral 60 of"):
        read_author_corpus(experiment(path, *settings), path)


def test_merged_classes_of_iemocap_are_understood(file):
    path = file(saved(toy_dict(40, n_classes=4)))
    corpus = read_author_corpus(experiment(path, "corpus.name=iemocap"), path)
    assert sorted({u.label for u in corpus.utterances}) == ["angry", "happy", "neutral", "sad"]
    assert "happy 10 of 1636" in corpus.summary


def test_files_that_do_not_fit_the_experiment_are_refused(casia, file):
    path = file(saved(toy_dict(35, n_classes=7)))
    with pytest.raises(ConfigError, match=r"casia has 6 \(angry, .*check corpus.name"):
        read_author_corpus(experiment(path), path)
    path = file(saved(toy_dict(48, n_classes=6)))
    for change, reason in (
        ("view.n_samples=88000", r"has 5 frames per utterance, .*n_samples = 2048 to 2559"),
        ('view={kind="whole"}', "has 5 frames per utterance"),
        ("front_end.preset=timnet-paper", "holds features of the front end mfcc with preset"),
    ):
        config = experiment(path, change)
        corpus = read_author_corpus(config, path)
        with pytest.raises(ConfigError, match=reason):
            corpus.extracted(recognizer_of(config, CASIA), corpus.utterances)


def test_feature_files_go_with_one_corpus_by_name(casia):
    with pytest.raises(ConfigError, match="cannot be joined with a second corpus"):
        experiment(casia, "test_corpus.name=emodb")
    with pytest.raises(ConfigError, match=r"not with corpus\.manifest"):
        experiment(casia, "corpus.manifest=all.csv")
