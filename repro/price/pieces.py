"""Finished pieces of a long computation, a JSON file each: a run that was killed goes on after the last of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from repro.base.files import write_json


@dataclass(frozen=True)
class Pieces:
    """A folder of finished pieces, named by what they are; the folder's own name is the hash of all they depend on."""

    folder: Path
    bar: tqdm[Any]

    def get(self, name: str, tokens: int, compute: Callable[[], Any]) -> Any:
        """The piece of this name: read if it is finished, else computed and written. `tokens`: what the bar counts."""
        file = self.folder / f"{name}.json"
        self.bar.set_postfix_str(name.replace("_", " "))
        end = self.bar.n + tokens
        if not file.is_file():
            write_json(file, compute())
        self.bar.update(end - self.bar.n)
        return json.loads(file.read_text())
