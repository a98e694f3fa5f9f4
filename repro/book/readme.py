"""`make readme`: the parts of README.md that are computed, from committed tables and first docstring lines."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from repro.base.config import repo_root, write_atomically
from repro.book.facts import fact

FACT = r"(<!-- fact: ([^>]+?) -->).*?(<!-- /fact -->)"
FIGURE = "data/results/readme.png"


def tree(package: Path) -> str:
    """A line a module: name, and the first line of its docstring without the full stop."""
    lines = []
    for path in sorted(package.iterdir(), key=lambda p: (p.is_dir(), p.name)):
        if path.suffix == ".py" and path.name != "__init__.py":
            lines.append(f"  {path.name:24s} {_first_line(path)}")
        elif (path / "__init__.py").is_file():
            lines.append(f"  {path.name + '/':24s} {_first_line(path / '__init__.py')}")
            for file in sorted(path.glob("*.py")):
                if file.name != "__init__.py":
                    lines.append(f"    {file.name:22s} {_first_line(file)}")
    return "\n".join(lines)


def _first_line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.splitlines()[0].rstrip(".") if doc else ""


def text(readme: str, root: Path | None = None) -> str:
    """README.md with its computed parts made new: facts, the performance table and the tree of the package."""
    from repro.sections.performance.timings import readme_table

    root = root or repo_root()
    parts = {
        r"(<!-- performance -->\n).*?(\n<!-- end -->)": readme_table(),
        r"(\nrepro/ +the package\n).*?(\nnotebooks/ )": tree(root / "repro"),
    }
    for pattern, new in parts.items():
        found = re.findall(pattern, readme, flags=re.S)
        if len(found) != 1:
            raise ValueError(f"README.md has {len(found)} places for {pattern!r}; there must be one.")
        before, after = found[0]
        head, rest = readme.split(before, 1)
        readme = head + before + new + after + rest.split(after, 1)[1]
    return re.sub(FACT, lambda match: match[1] + fact(match[2]).text + match[3], readme, flags=re.S)


def figure() -> None:
    """The figure of the first screen, from the committed comparison of the largest language model that has one."""
    import pandas as pd

    from repro.base.theme import use_theme
    from repro.inference import MODES
    from repro.sections.comparison import run as comparison
    from repro.sections.tables import committed

    use_theme()
    scale = next(s for s in ("paper", "small", "tiny") if (committed() / s / "comparison.csv").is_file())
    table = pd.read_csv(committed() / scale / "comparison.csv")
    drawn = comparison.density_figure(table[table["mode"].isin(MODES)])
    drawn.update_layout(paper_bgcolor="white", plot_bgcolor="white", font_color="#2f3742")
    path = repo_root() / FIGURE
    write_atomically(path, lambda draft: draft.write_bytes(drawn.to_image("png", width=900, height=460, scale=1.5)))
    about = json.loads((committed() / scale / "comparison.json").read_text())
    about = {"drawn from": f"data/results/{scale}/comparison.csv", "by": "make readme"} | about
    write_atomically(path.with_suffix(".json"), lambda draft: draft.write_text(json.dumps(about, indent=1) + "\n"))


def main() -> None:
    """Rewrite README.md and its figure."""
    path = repo_root() / "README.md"
    new = text(path.read_text(encoding="utf-8"))
    write_atomically(path, lambda draft: draft.write_text(new, encoding="utf-8"))
    figure()


if __name__ == "__main__":
    main()
