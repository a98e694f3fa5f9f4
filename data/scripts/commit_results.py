"""Copy the result tables of one scale from data/cache/results to data/results, where git keeps them."""

import shutil
import sys

from repro.base.errors import BadInput
from repro.base.files import repo_root
from repro.sections.scales import SCALES
from repro.sections.tables import committed, fresh


def main(scale: str) -> None:
    """Copy each table and its provenance."""
    if scale not in SCALES or not (fresh() / scale).is_dir():
        raise BadInput(f"There are no fresh tables of scale '{scale}'; compute them with `repro notebook --scale`.")
    folder = committed() / scale
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted([*(fresh() / scale).glob("*.csv"), *(fresh() / scale).glob("*.json")]):
        text = path.read_text()
        if str(repo_root()) in text:
            raise BadInput(f"{path} holds a path of this machine; leave it out of the table.")
        shutil.copy(path, folder / path.name)
        print(folder / path.name)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "tiny")
    except BadInput as error:
        sys.exit(f"commit_results: {error}")
