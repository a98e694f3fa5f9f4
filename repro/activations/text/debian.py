"""Debian's long package descriptions with their section: general technical English, a paragraph or a page a package."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from repro.base.errors import BadInput

HELPER = "/usr/lib/apt/apt-helper"
NOT_FREE = ("contrib", "non-free", "non-free-firmware", "restricted", "multiverse")


class Description(NamedTuple):
    """The long description of one package."""

    package: str
    source: str
    """Source package: what is built from it shares wording."""
    section: str
    text: str


def download(folder: Path) -> list[Path]:
    """Debian's package lists and English translations, as apt keeps them, in `folder`; nothing of the system changes.

    Raises BadInput where there is no apt, no package source or no network.
    """
    if shutil.which("apt-get") is None or not Path(HELPER).is_file():
        raise BadInput(
            "apt-get is missing: prepare this text on Debian or Ubuntu, and copy the folder text/ of the cache here."
        )
    for sub in ("lists/partial", "cache"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    config = folder / "apt.conf"
    config.write_text(
        f'Acquire::Languages "en";\nAcquire::Retries "2";\n'
        f'Dir::State::lists "{folder}/lists";\nDir::Cache "{folder}/cache";\n'
        'APT::Sandbox::User "";\nAPT::Update::Error-Mode "any";\n'
        "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
    )
    done = subprocess.run(["apt-get", "-q", "-c", config, "update"], capture_output=True, text=True)
    files = sorted(p for p in (folder / "lists").iterdir() if re.search(r"_(Packages|Translation-en)(\.\w+)?$", p.name))
    if done.returncode or not any("_Packages" in p.name for p in files):
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))] or ["no package source"]
        raise BadInput(
            f"apt-get cannot fetch Debian's package lists ({lines[-1]}): check the network and sources.list."
        )
    if not any("_Translation-en" in p.name for p in files):
        raise BadInput("apt-get brought no English descriptions: its sources need Translation-en; see sources.list(5).")
    return files


def releases(folder: Path) -> dict[str, str]:
    """Version and date of the releases that `download` read, by code name, such as bookworm."""
    versions = {}
    for path in sorted((folder / "lists").glob("*Release")):
        fields = dict(line.split(": ", 1) for line in path.read_text().splitlines()[:40] if ": " in line)
        versions[fields.get("Codename", path.name)] = f"{fields.get('Version', '')} {fields.get('Date', '')}".strip()
    return versions


def read_list(path: Path) -> str:
    """A list of apt, whatever it is compressed with."""
    return subprocess.run([HELPER, "cat-file", path], capture_output=True, check=True).stdout.decode()


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The records of a control file: fields by name, continuation lines kept with their indentation (deb822(5))."""
    for block in text.split("\n\n"):
        record: dict[str, str] = {}
        name = ""
        for line in block.split("\n"):
            if line[:1] in (" ", "\t") and name:
                record[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                record[name] = value.strip()
        if record:
            yield record


def descriptions(lists: list[str]) -> list[Description]:
    """All distinct long descriptions of free packages, by package name, from the texts of apt's lists."""
    sections: dict[tuple[str, str], tuple[str, str]] = {}
    texts: dict[tuple[str, str], str] = {}
    for record in (record for text in lists for record in stanzas(text)):
        key = (record.get("Package", ""), record.get("Description-md5", ""))
        if "Description-en" in record:
            texts[key] = long_description(record["Description-en"])
        elif "Section" in record:
            sections[key] = (record.get("Source", key[0]).split(" ")[0], record["Section"])
    out: list[Description] = []
    seen: set[str] = set()
    for key in sorted(sections.keys() & texts.keys()):
        source, section = sections[key]
        *area, section = section.split("/")
        text = texts[key]
        if text and text not in seen and not set(area) & set(NOT_FREE):
            seen.add(text)
            out.append(Description(key[0], source, section, text))
    return out


def long_description(field: str) -> str:
    """The paragraphs after the first line, unwrapped, a line each; items of lists and verbatim lines stay lines.

    Debian Policy 5.6.13: one leading space = wrapped text, more = verbatim, " ." = a blank line.
    """
    out: list[str] = []
    join = False  # does the next line of running text continue the last?
    item = 0  # indentation of the list item that deeper lines continue
    for line in field.split("\n")[1:]:
        body, indent = line.strip(), len(line) - len(line.lstrip())
        if body in (".", ""):
            join, item = False, 0
        elif re.match(r"([-*+o•·]|\d+[.)])\s", body):
            out.append(body)
            join, item = True, indent
        elif out and join and (indent >= item if item else indent <= 1):
            out[-1] += " " + body
        else:
            out.append(body)
            join, item = indent <= 1, 0
    return "\n".join(re.sub(r"\s+", " ", line) for line in out)
