"""Judge predictions: how good, how sure, and whether better than another system's.

Evaluation works from files alone: the predictions table and its companions in a run folder. It
imports neither torch nor any corpus, so it judges foreign systems as it judges ours.
"""

from serkit.evaluation.compare import Comparison, compare_runs
from serkit.evaluation.metrics import (
    METRIC_NAMES,
    ccc,
    confusion_matrix,
    expected_calibration_error,
    f1_macro,
    f1_weighted,
    majority_baseline,
    per_class,
    uar,
    war,
)
from serkit.evaluation.multilabel import (
    SET_METRIC_NAMES,
    SetScores,
    binary_uar,
    exact_match,
    macro_f1,
    mean_recall,
    score_sets,
    set_interval,
)
from serkit.evaluation.predictions import (
    Predictions,
    PredictionsError,
    read_predictions,
    write_predictions,
)
from serkit.evaluation.report import write_report
from serkit.evaluation.runfolder import RunFolder, RunFolderError, read_run
from serkit.evaluation.scores import Scores, score
from serkit.evaluation.significance import (
    Interval,
    PairedTest,
    bootstrap_interval,
    holm,
    paired_test,
)
from serkit.evaluation.summary import (
    SetSummary,
    Summary,
    evaluate_tables,
    findings,
    judge,
    optimism,
    summarize,
    summarize_sets,
)

__all__ = [
    "METRIC_NAMES",
    "SET_METRIC_NAMES",
    "Comparison",
    "Interval",
    "PairedTest",
    "Predictions",
    "PredictionsError",
    "RunFolder",
    "RunFolderError",
    "Scores",
    "SetScores",
    "SetSummary",
    "Summary",
    "binary_uar",
    "bootstrap_interval",
    "ccc",
    "compare_runs",
    "confusion_matrix",
    "evaluate_tables",
    "exact_match",
    "expected_calibration_error",
    "f1_macro",
    "f1_weighted",
    "findings",
    "holm",
    "judge",
    "macro_f1",
    "majority_baseline",
    "mean_recall",
    "optimism",
    "paired_test",
    "per_class",
    "read_predictions",
    "read_run",
    "score",
    "score_sets",
    "set_interval",
    "summarize",
    "summarize_sets",
    "uar",
    "war",
    "write_predictions",
    "write_report",
]
