"""Writes into data/manifest.toml what can be computed: sha256 and bytes of each item, version and sha256 of sources."""

import re
import tomllib
from pathlib import Path

from sources import PACKAGES

from repro.base.files import file_sha256

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "data/manifest.toml"


def refreshed(text: str) -> str:
    """The manifest with the computed keys of every table filled in; everything else stays as it was written."""
    tables = re.split(r"^(?=\[)", text, flags=re.M)
    return "".join(tables[:1] + [filled(table) for table in tables[1:]])


def filled(table: str) -> str:
    """One [[item]] or [[source]]: set its computed keys, whose lines must be there."""
    (kind, (row,)), *_ = tomllib.loads(table).items()
    values: dict[str, str | int]
    if kind == "item":
        path = ROOT / row["path"]
        values = {"sha256": file_sha256(path), "bytes": path.stat().st_size}
    else:
        package = next(p for p in PACKAGES.values() if p.name == row["package"])
        values = {"version": package.version, "sha256": package.sha256}
    for key, value in values.items():
        line = f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"'
        table, found = re.subn(rf"^{key} = .*$", line, table, flags=re.M)
        if found != 1:
            raise SystemExit(f"refresh_manifest: {kind} {row} needs one line '{key} = '")
    return table


if __name__ == "__main__":
    MANIFEST.write_text(refreshed(MANIFEST.read_text(encoding="utf-8")), encoding="utf-8")
