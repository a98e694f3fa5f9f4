"""Solve the examples of the book's explorer for one scale, small or tiny, and write data/explorer/SCALE.json.gz."""

import sys

from repro.base.errors import BadInput
from repro.sections.explorer.prepare import write

if __name__ == "__main__":
    try:
        print(write(sys.argv[1] if len(sys.argv) > 1 else "tiny"))
    except BadInput as error:
        sys.exit(f"prepare_explorer: {error}")
