"""Run by torchrun, or alone: a transcription run, which may be made to die within an epoch."""

import json
import os
import sys
from pathlib import Path

from serkit.experiment.config import check_experiment
from serkit.experiment.transcription.run import TranscriptionConfig, run_transcription
from serkit.training.asr_part import AsrPart
from serkit.training.crew import with_crew


def die_at(call: int) -> None:
    """End this process, as a kill would, when so many batches have been asked for."""
    plain, calls = AsrPart.training_batch, []

    def batch(self, rows, *, seed, epoch):
        calls.append(epoch)
        if len(calls) == call:
            os._exit(9)
        return plain(self, rows, seed=seed, epoch=epoch)

    AsrPart.training_batch = batch


def main(out: Path, settings: dict[str, object], last_call: int, resume: bool) -> None:
    if last_call:
        die_at(last_call)
    config = check_experiment(settings, TranscriptionConfig, source="test")
    with_crew(lambda: run_transcription(config, out=out, resume=resume))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "resume")
