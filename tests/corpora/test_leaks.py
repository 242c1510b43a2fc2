import json
import time
from pathlib import Path

import pytest

from serkit.corpora.leaks import LeakReport, check_leaks
from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import SELECTED_ON_TEST, SPLITS, SplitOptions, make_folds
from serkit.types import Fold, Utterance


def utterance(uid: str, **facts: object) -> Utterance:
    defaults = {"path": Path(f"{uid}.wav"), "corpus": "toy", "speaker": uid[0], "label": "sad"}
    return Utterance(id=uid, **(defaults | facts))  # type: ignore[arg-type]


def fold(train: str, dev: str, test: str, name: str = "one") -> Fold:
    return Fold(
        name=name, train=tuple(train.split()), dev=tuple(dev.split()), test=tuple(test.split())
    )


def four() -> list[Utterance]:
    """Two sentences by each of the speakers a and b, all different."""
    return [
        utterance("a1", sentence="t1"),
        utterance("a2", sentence="t2"),
        utterance("b1", sentence="t1"),
        utterance("b2", sentence="t2"),
        utterance("c1", sentence="t1"),
    ]


def kinds(findings: tuple[object, ...]) -> list[tuple[str, tuple[str, str], tuple[str, ...]]]:
    return [(f.kind, f.parts, f.items) for f in findings]  # type: ignore[attr-defined]


def check(one: Fold, separates: set[str], **facts: object) -> LeakReport:
    return check_leaks(four(), [one], separates=separates, **facts)  # type: ignore[arg-type]


def test_a_shared_speaker_breaks_a_promise_only_where_it_was_made() -> None:
    leaky = fold("a1 b1", "", "a2")
    assert kinds(check(leaky, {"speaker"}).broken) == [("speaker", ("train", "test"), ("a",))]
    assert kinds(check(leaky, set()).notes) == [("speaker", ("train", "test"), ("a",))]
    assert not check(leaky, set()).broken


def test_the_honest_fold_has_only_notes() -> None:
    report = check(fold("a1 a2", "c1", "b1 b2"), {"speaker"})
    assert not report.broken
    assert ("sentence", ("train", "test"), ("t1", "t2")) in kinds(report.notes)
    assert report.lines()[-1] == "no promise is broken"
    assert report.kept_apart == {"speaker"}
    report.raise_if_broken()


def test_dev_speakers_in_training_are_a_note_and_in_test_a_violation() -> None:
    assert not check(fold("a1", "a2", "b1"), {"speaker"}).broken
    broken = check(fold("a1", "b2", "b1"), {"speaker"}).broken
    assert kinds(broken) == [("speaker", ("dev", "test"), ("b",))]


def test_dev_and_test_may_share_a_session_but_train_may_not() -> None:
    utterances = [utterance(uid, session="x") for uid in "abc"]
    report = check_leaks(utterances, [fold("a", "b", "c")], separates={"speaker", "session"})
    assert kinds(report.broken) == [("session", ("train", "test"), ("x",))]


@pytest.mark.parametrize("separates", [set(), {"speaker"}])
def test_shared_ids_are_always_broken(separates: set[str]) -> None:
    report = check(fold("a1 b1", "c1", "b1"), separates)
    assert ("id", ("train", "test"), ("b1",)) in kinds(report.broken)


def test_ids_twice_and_empty_parts_are_broken() -> None:
    assert ("id", ("train", "train"), ("a1",)) in kinds(
        check(fold("a1 a1", "", "b1"), set()).broken
    )
    assert ("empty", ("test", "test"), ()) in kinds(check(fold("a1", "", ""), set()).broken)
    assert any("test part is empty" in line for line in check(fold("a1", "", ""), set()).lines())


def test_dev_that_is_the_test_part_is_a_note_that_reads_selected_on_test() -> None:
    report = check(fold("a1 a2", "b1 b2", "b2 b1"), {"speaker"})
    assert not report.broken
    assert (SELECTED_ON_TEST, ("dev", "test"), ()) in kinds(report.notes)
    about_dev = [line for line in report.lines() if "dev" in line]
    assert about_dev
    assert all(SELECTED_ON_TEST in line for line in about_dev)


def test_dev_that_shares_some_test_ids_is_broken() -> None:
    report = check(fold("a1 a2", "b1 c1", "b1 b2"), set())
    assert ("id", ("dev", "test"), ("b1",)) in kinds(report.broken)


def test_identical_audio_across_train_and_test_is_broken_under_any_promise() -> None:
    hashes = {"a1": "x", "b2": "x", "a2": "y", "b1": "z"}
    one = fold("a1 a2", "", "b1 b2")
    found = ("identical audio", ("train", "test"), ("a1 = b2",))
    assert found in kinds(check(one, {"speaker"}, audio_hashes=hashes).broken)
    assert found in kinds(check(one, {"sentence"}, audio_hashes=hashes).broken)
    assert found in kinds(check(one, set(), audio_hashes=hashes).notes)


def test_identical_audio_within_one_part_is_no_finding() -> None:
    report = check(fold("a1 a2", "", "b1"), {"speaker"}, audio_hashes={"a1": "x", "a2": "x"})
    assert "identical audio" not in [finding.kind for finding in report.findings]


def test_the_report_says_when_audio_was_not_compared() -> None:
    assert any("identical audio was not looked for" in line for line in
               check(fold("a1", "", "b1"), set()).lines())  # fmt: skip
    report = check(fold("a1", "", "b1"), set(), audio_hashes={})
    assert not any("not looked for" in line for line in report.lines())


@pytest.mark.parametrize(
    ("start_s", "end_s", "found"),
    [(1.0, 3.0, True), (1.98, 3.0, False), (2.0, 3.0, False), (0.5, None, True), (0.5, 1.0, True)],
)
def test_overlapping_stretches_of_one_recording_are_found(
    start_s: float, end_s: float | None, found: bool
) -> None:
    path = Path("video.wav")
    utterances = [
        utterance("a", path=path, start_s=0.0, end_s=2.0),
        utterance("b", path=path, start_s=start_s, end_s=end_s),
        utterance("c", path=Path("other.wav"), start_s=start_s, end_s=end_s),
    ]
    report = check_leaks(utterances, [fold("a c", "", "b")], separates={"speaker"})
    assert kinds(report.broken) == (
        [("overlapping stretches", ("train", "test"), ("a = b",))] if found else []
    )


def test_same_speaker_name_in_another_corpus_is_another_speaker() -> None:
    utterances = [utterance("a1"), utterance("x", corpus="two", speaker="a")]
    report = check_leaks(utterances, [fold("a1", "", "x")], separates={"speaker", "corpus"})
    assert not report.broken
    assert report.kept_apart == {"speaker", "corpus"}


def test_kept_apart_tells_the_truth_of_foreign_folds() -> None:
    report = check(fold("a1 b1", "", "a2 b2"), set())
    assert report.kept_apart == {"sentence"}


@pytest.mark.parametrize("split_name", ["leave_one_speaker_out", "speaker_and_sentence"])
@pytest.mark.parametrize("dev", ["speaker", "random", "none", "test"])
def test_our_own_splits_pass_their_own_check(split_name: str, dev: str) -> None:
    utterances = [
        utterance(f"s{s}-t{t}-{label}", speaker=f"s{s}", sentence=f"t{t}", label=label)
        for s in range(5)
        for t in range(4)
        for label in ("happy", "sad")
    ]
    folds = make_folds(utterances, split_name, SplitOptions(dev=dev))
    report = check_leaks(utterances, folds, separates=SPLITS[split_name].separates)
    report.raise_if_broken()
    assert report.kept_apart >= SPLITS[split_name].separates


def test_lines_join_folds_and_name_a_few_examples() -> None:
    utterances = [utterance(f"s{s}-{i}", speaker=f"s{s}") for s in range(12) for i in range(9)]
    folds = make_folds(utterances, "random_folds", SplitOptions(n_folds=3, dev="none"))
    (line,) = [line for line in check_leaks(utterances, folds, separates=()).lines()
               if "speakers" in line]  # fmt: skip
    assert line == (
        "note: train and test share 12 speakers in 3 of 3 folds (s0, s1, s2, s3, s4, ...)"
    )


def test_the_report_fits_into_json() -> None:
    report = check(fold("a1 b1", "", "a2"), {"speaker"})
    read = json.loads(json.dumps(report.to_dict()))
    assert read["broken"][0] == {
        "fold": "one", "parts": ["train", "test"], "kind": "speaker", "n": 1, "items": ["a"],
    }  # fmt: skip
    assert read["lines"] == report.lines()


def test_broken_promises_stop_with_one_line() -> None:
    report = check(fold("a1 b1", "", "a2 b1"), {"speaker"})
    with pytest.raises(
        CorpusError, match=r"share 1 id in fold one \(b1\) \(and 1 more\)"
    ) as caught:
        report.raise_if_broken()
    assert "\n" not in str(caught.value)


def test_unknown_ids_axes_and_no_folds_are_refused() -> None:
    with pytest.raises(CorpusError, match="no utterance has the id 'zz'"):
        check(fold("zz", "", "b1"), set())
    with pytest.raises(CorpusError, match="unknown axis 'speakers'"):
        check(fold("a1", "", "b1"), {"speakers"})
    with pytest.raises(CorpusError, match="no folds to check"):
        check_leaks(four(), [], separates=())


def test_the_check_grows_with_the_corpus_and_not_with_its_square() -> None:
    def seconds(n: int) -> float:
        utterances = [
            utterance(
                f"u{i}",
                speaker=f"s{i % 50}",
                sentence=f"t{i % 13}",
                session=f"x{i % 25}",
                path=Path(f"r{i // 100}.wav"),
                start_s=float(i % 100),
                end_s=i % 100 + 30.0,
            )
            for i in range(n)
        ]
        folds = make_folds(utterances, "random_folds", SplitOptions(n_folds=3))
        hashes = {u.id: str(i % (n - n // 10)) for i, u in enumerate(utterances)}
        started = time.process_time()
        report = check_leaks(utterances, folds, separates=(), audio_hashes=hashes)
        assert {"identical audio", "overlapping stretches"} <= {f.kind for f in report.findings}
        return time.process_time() - started

    seconds(500)  # warms up
    # Eight times the utterances: about eight times as long; a quadratic check would take 64.
    assert seconds(8_000) < 30 * seconds(1_000)
