"""The book: notebook runner, numbers and figures of its pages, build, computed parts of README."""

import sys

# jsonschema, which nbformat imports, takes this along for one format of strings that no notebook has. Its grammar costs
# over a second of every process that reads a notebook.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
