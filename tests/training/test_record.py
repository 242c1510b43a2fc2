"""What a dev part says of an epoch."""

from __future__ import annotations

import numpy as np
import pytest

from serkit.training.record import judge


def test_one_class_each_is_judged_by_recalls_and_the_likelihood_of_the_truth():
    scores = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], dtype=np.float32)
    row = judge(scores, np.array([0, 1, 1]))
    assert row["dev_uar"] == pytest.approx((1 + 0.5) / 2)
    assert row["dev_war"] == pytest.approx(2 / 3)
    assert row["dev_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert row["dev_loss"] == pytest.approx(-np.log([0.8, 0.4, 0.7]).mean())


def test_several_classes_at_once_are_judged_as_decisions():
    truth = np.array([[1, 1], [1, 0], [0, 1]], dtype=np.float32)
    scores = np.array([[0.9, 0.4], [0.6, 0.2], [0.7, 0.8]], dtype=np.float32)
    row = judge(scores, truth)
    assert row["dev_uar"] == pytest.approx((1 + 0.5) / 2)  # recall of either class
    assert row["dev_war"] == pytest.approx(1 / 3)  # only the second is right in both
    right = np.where(truth > 0, scores, 1 - scores)
    assert row["dev_loss"] == pytest.approx(-np.log(right).mean(), rel=1e-6)


def test_a_certain_mistake_costs_a_finite_loss():
    assert np.isfinite(judge(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]))["dev_loss"])
