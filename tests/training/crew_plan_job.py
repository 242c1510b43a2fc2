"""Run by torchrun: trains two members together, and leaves what was said before."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from serkit.training.cohort import Resources, train_cohort
from serkit.training.crew import with_crew
from serkit.types import InputError
from training.toy_members import members, training


def lead(folder: Path, settings: dict[str, int]) -> None:
    said: list[str] = []
    cohort = members(folder, training(epochs=1, accelerator="cpu"), test_sizes=(10, 9))
    try:
        train_cohort(cohort, Resources(**settings), on_event=lambda *_: None, say=said.append)
    except InputError as error:
        said.append(str(error))
    (folder / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    with_crew(lambda: lead(Path(sys.argv[1]), json.loads(sys.argv[3])))
