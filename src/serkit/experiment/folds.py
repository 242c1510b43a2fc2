"""From a protocol to folds."""

from __future__ import annotations

from collections.abc import Sequence

from serkit.corpora.splits import SPLITS, SplitOptions, make_folds, read_folds_csv
from serkit.experiment.config import ConfigError, ProtocolConfig
from serkit.types import Fold, Utterance

__all__ = ["folds_of"]


def folds_of(
    protocol: ProtocolConfig, utterances: Sequence[Utterance], *, test_corpora: Sequence[str] = ()
) -> tuple[list[Fold], frozenset[str]]:
    """Make the folds of a protocol, or read those of its file.

    Parameters
    ----------
    test_corpora
        Of ``cross_corpus``: those that are tested on.

    Returns
    -------
    folds
        Those that ``protocol.only`` names; otherwise all.
    separates
        What the split keeps apart; nothing is known of folds from a file.

    Raises
    ------
    ConfigError
        If ``protocol.only`` names a fold that there is not.
    InputError
        If the split cannot be made.
    """
    if protocol.folds_file is not None:
        folds = read_folds_csv(protocol.folds_file, utterances=utterances)
        return _only(folds, protocol.only), frozenset()
    corpora = sorted({u.corpus for u in utterances})
    options = SplitOptions(
        n_folds=protocol.n_folds,
        n_sentence_folds=protocol.n_sentence_folds,
        seed=protocol.split_seed,
        dev=protocol.dev,
        n_dev=protocol.n_dev,
        dev_fraction=protocol.dev_fraction,
        train_corpora=tuple(c for c in corpora if c not in test_corpora) if test_corpora else (),
        test_corpora=tuple(test_corpora),
    )
    folds = make_folds(utterances, protocol.split, options)
    return _only(folds, protocol.only), SPLITS[protocol.split].separates


def _only(folds: list[Fold], wanted: Sequence[str] | None) -> list[Fold]:
    if wanted is None:
        return folds
    by_name = {fold.name: fold for fold in folds}
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise ConfigError(
            f"protocol.only names the fold '{missing[0]}', expected some of {', '.join(by_name)}"
        )
    return [by_name[name] for name in wanted]
