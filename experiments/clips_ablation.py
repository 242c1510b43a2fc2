"""What each stream is worth, and what it costs to hear the words instead of knowing them.

    python experiments/clips_ablation.py OUT [--seeds 1 2 3] [--epochs 40] [--json FILE]

On the synthetic clips of ``serkit demo --clip`` (made into OUT, or found there), parts by speaker:

* words alone, voice alone, face alone, voice and face, all three;
* all three and words alone, in four cells: trained on what was said or on what was heard, judged on
  what was said or on what was heard.

It says that the machinery tells these cells apart. What they are on people, nobody knows from it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serkit.clip_data import read_clip_data
from serkit.evaluation.transcription import cer, wer
from serkit.experiment.clip_demo import ClipDemoSize, prepare_clips
from serkit.experiment.sentiment.run import run_sentiment
from serkit.experiment.tasks import load_task

_STREAMS = {
    "text": ["text"],
    "audio": ["audio"],
    "vision": ["vision"],
    "no text": ["audio", "vision"],
    "all": ["text", "audio", "vision"],
}
_SCORES = ("Mult_acc_2", "Mult_acc_3", "MAE", "Corr")


def main() -> None:
    """Train every cell and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    ready = prepare_clips(given.out / "demo")
    cells = [(name, "gold", "gold") for name in _STREAMS]
    if ready.asr is not None:
        others = [("gold", "asr"), ("asr", "gold"), ("asr", "asr")]
        cells += [(name, *words) for name in ("text", "all") for words in others]
    rows = []
    for streams, trained, judged in cells:
        scores = _train(given.out, ready.features, streams, trained, judged, given)
        rows.append({"streams": streams, "trained on": trained, "judged on": judged} | scores)
        print(_line(rows[-1]), flush=True)
    seeds = " ".join(map(str, given.seeds))
    found = {
        "command": f"python experiments/clips_ablation.py OUT --seeds {seeds}",
        "n_clips": ClipDemoSize().n_clips,
        "seeds": given.seeds,
        "epochs": given.epochs,
        "errors of the recogniser, by part": _error_rates(ready.features),
        "rows": rows,
    }
    print(json.dumps(found["errors of the recogniser, by part"]))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _train(
    out: Path, features: Path, streams: str, trained: str, judged: str, given: argparse.Namespace
) -> dict[str, Any]:
    config = load_task(
        "self_mm/clips-demo",
        overrides=[
            f"data={json.dumps(str(features))}",
            f"seeds={given.seeds}",
            f"training.epochs={given.epochs}",
            f"modalities={json.dumps(_STREAMS[streams])}",
            f"asr.probability={1.0 if trained == 'asr' else 0.0}",
            f"asr.judged={judged}",
        ],
    )
    run = out / f"{streams.replace(' ', '-')}-{trained}-{judged}"
    run_sentiment(config, out=run, resume=True)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {
        name: {key: round(metrics["scores"][name][key], 4) for key in ("mean", "sd")}
        for name in _SCORES
    } | {"majority": round(metrics["baselines"]["majority"]["Mult_acc_2"], 4)}


def _error_rates(features: Path) -> dict[str, Any]:
    """Score what was heard against what was said; the recogniser knows the voices of train."""
    data = read_clip_data(features)
    if not data.asr_texts:
        return {}
    rates = {}
    for part in ("train", "dev", "test"):
        rows = data.rows_of(part)
        said, heard = ([_plain(texts[r]) for r in rows] for texts in (data.texts, data.asr_texts))
        rates[part] = {"cer": round(cer(said, heard), 4), "wer": round(wer(said, heard), 4)}
    return rates


def _plain(text: str) -> str:
    return "".join(char for char in text.lower() if char.isalpha() or char == " ")


def _line(row: dict[str, Any]) -> str:
    cells: Sequence[str] = [f"{row[key]:8}" for key in ("streams", "trained on", "judged on")]
    scores = [f"{row[name]['mean']:.3f} ± {row[name]['sd'] or 0:.3f}" for name in _SCORES]
    return "  ".join([*cells, *scores])


if __name__ == "__main__":
    main()
