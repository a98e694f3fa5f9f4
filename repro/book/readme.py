"""`make readme`: the computed parts of README.md, from committed tables and first docstring lines."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from repro.base.files import repo_root, write_atomically
from repro.book.facts import fact

FACT = r"(<!-- fact: ([^>]+?) -->).*?(<!-- /fact -->)"
FIGURE = "data/results/readme.png"


def tree(names: list[str], package: Path) -> str:
    """One line for each of these folders and files of the package: its name and the first line of its docstring.

    Raises ValueError unless the names are exactly what lies in the package.
    """
    modules = {path.parent.name + "/": path for path in package.glob("*/__init__.py")}
    modules |= {path.name: path for path in package.glob("*.py") if not path.name.startswith("__")}
    if set(names) != set(modules):
        raise ValueError(f"README.md's tree and {package} differ in {', '.join(sorted(set(names) ^ set(modules)))}.")
    return "\n".join(f"  {name:14s} {_first_line(modules[name])}" for name in names)


def _first_line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.split("\n")[0].rstrip(".")


def text(readme: str, root: Path | None = None) -> str:
    """README.md with its computed parts made new: facts, the performance table and the tree of folders.

    Raises ValueError where a part is missing or the tree does not name every folder of the package.
    """
    from repro.sections.performance.words import readme_table

    package = (root or repo_root()) / "repro"
    performance = r"(?<=<!-- performance -->\n).*?(?=\n<!-- end -->)"
    folders = r"(?<=  the package\n).*?(?=\nnotebooks/ )"
    for pattern in (performance, folders):
        if (count := len(re.findall(pattern, readme, re.S))) != 1:
            raise ValueError(f"README.md has {count} places for {pattern!r}; there must be one.")
    readme = re.sub(performance, lambda _: readme_table(), readme, flags=re.S)
    readme = re.sub(folders, lambda old: tree(re.findall(r"^  (\S+)", old[0], re.M), package), readme, flags=re.S)
    return re.sub(FACT, lambda match: match[1] + fact(match[2]).text + match[3], readme, flags=re.S)


def figure() -> None:
    """The figure of the first screen, from the committed comparison of the largest language model that has one."""
    import pandas as pd

    from repro.base.theme import INKS, use_theme
    from repro.inference import MODES
    from repro.sections.comparison import density_figure
    from repro.sections.tables import committed

    use_theme()
    scale = next(s for s in ("paper", "small", "tiny") if (committed() / s / "comparison.csv").is_file())
    table = pd.read_csv(committed() / scale / "comparison.csv")
    drawn = density_figure(table[table["mode"].isin(MODES)])
    drawn.update_layout(paper_bgcolor="white", plot_bgcolor="white", font_color=INKS["light"][0])
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
