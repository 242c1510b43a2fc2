"""Names of runs of the decomposed system, as its README has them, in serkit's presets.

``01F_SER`` is emotion alone, ``tmp_01F`` emotion with transcription, ``single_enc_01F`` the single
encoder, ``01F_test`` the final system; ``01F`` to ``05M`` are the published folds, IEMOCAP's
recordings.
"""

from __future__ import annotations

import re

from serkit.experiment.config import ConfigError

__all__ = ["legacy_overrides"]

_FOLDS = tuple(f"0{session}{gender}" for session in range(1, 6) for gender in "FM")
_FOLD = r"(\d+[FMfm])"
_RUNS = (
    (re.compile(rf"{_FOLD}_SER"), "decomposed/published+variants/ser-only"),
    (re.compile(rf"tmp_{_FOLD}"), "decomposed/cai"),
    (re.compile(rf"single_enc_{_FOLD}"), "decomposed/as-published+variants/single-encoder"),
    (re.compile(rf"{_FOLD}_test"), "decomposed/as-published"),
)


def legacy_overrides(name: str) -> tuple[str, list[str]]:
    """Translate the name of a run into a preset and what is to be set; other names stay.

    Raises
    ------
    ConfigError
        If the name is one of a run but for its fold.

    >>> legacy_overrides("tmp_01F")[0]
    'decomposed/cai'
    >>> legacy_overrides("timnet/base")
    ('timnet/base', [])
    """
    for pattern, preset in _RUNS:
        found = pattern.fullmatch(name)
        if found:
            if found[1] not in _FOLDS:
                raise ConfigError(
                    f"{name}: no fold '{found[1]}'; the folds of the authors' runs are "
                    f"{', '.join(_FOLDS)}"
                )
            only = f'protocol.only=["recording-Ses{found[1]}"]'
            return preset, ["corpus.name=iemocap", only, f"name={name}"]
    return name, []
