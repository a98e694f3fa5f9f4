"""Reads six Debian packages of freely licensed English; what a reader yields at a time is what gets held out whole."""

import hashlib
import re
import shutil
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Iterator
from gzip import decompress
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple


class Package(NamedTuple):
    """A Debian package the committed files were made from; another version works but gives other bytes."""

    name: str
    version: str
    sha256: str


PACKAGES = {
    "austen": Package(
        "r-cran-janeaustenr", "1.0.0-1", "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"
    ),
    "web": Package("sword-text-web", "426.0-1", "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1"),
    "kjv": Package("sword-text-kjv", "14.3-1", "9f463f28ce665f6f528fc723179722bced880a4c5485f7a41bf742838315de57"),
    "wordnet": Package("wordnet-base", "1:3.0-37", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"),
    "jargon": Package("dict-jargon", "4.4.7-3.1", "405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1"),
    "devil": Package("dict-devil", "1.0-13.1", "6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154"),
}

# The 45 lexicographer files of WordNet 3.0 in the order of their numbers, from the manual page lexnames(5WN).
LEXFILES = """
adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body
noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive
noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation
noun.shape noun.state noun.substance noun.time verb.body verb.change verb.cognition verb.communication
verb.competition verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception
verb.possession verb.social verb.stative verb.weather adj.ppl
""".split()  # noqa: SIM905 (a list of 45 quoted names is worse to read)
PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


class Synset(NamedTuple):
    """One line of WordNet's data files."""

    id: str  # part of speech and byte offset, the usual name of a synset: n00001740
    word: str  # its first lemma
    pos: str
    lexfile: str
    definition: str  # the gloss without its quoted examples
    gloss: str


def unpack(package: Package, cache: Path) -> Path:
    """Download (with apt-get, unless the .deb lies in `cache`) and unpack one package; returns the folder."""
    cache.mkdir(parents=True, exist_ok=True)
    archive = next(cache.glob(f"{package.name}_*.deb"), None)
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            sys.exit(f"build_text: {tool} is missing: run this on Debian, or see data/README.md; nothing else needs it")
    if archive is None:
        done = subprocess.run(["apt-get", "download", package.name], cwd=cache, capture_output=True)
        archive = next(cache.glob(f"{package.name}_*.deb"), None)
        if done.returncode or archive is None:
            sys.exit(f"build_text: apt-get could not download {package.name}: run `apt-get update` first, as root")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != package.sha256:
        print(f"build_text: {archive.name} is not version {package.version}: results will differ", file=sys.stderr)
    folder = cache / package.name
    if not folder.is_dir():
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    return folder


_ASCII = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "--", "–": "-", "…": "...", "\u00a0": " ", "¶": "", "\u00ad": ""}
)


def plain(text: str) -> str:
    """NFC, typewriter quotes and dashes, no _emphasis_ marks, single spaces, single line breaks."""
    text = unicodedata.normalize("NFC", text).translate(_ASCII)
    text = re.sub(r"(?<!\w)_([^_\n]+)_(?!\w)", r"\1", text)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r" ?\n[ \n]*", "\n", text).strip()


def unwrap(lines: list[str]) -> str:
    """Undo line wrapping: a flush line continues the one before it, an indented or a first one starts a new line."""
    out = [""]
    for line in lines:
        if not line.strip() or line.startswith(" ") or not out[-1]:
            out.append(line.strip())
        else:
            out[-1] += " " + line.strip()
    return plain("\n".join(out))


def austen(folder: Path) -> Iterator[tuple[str, str]]:
    """The six novels, a chapter at a time.

    R keeps them as lazily loaded vectors: blocks of [length, u32 big-endian][zlib], each an XDR serialisation.
    """
    data = (folder / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    while data:
        inflate = zlib.decompressobj()
        lines = r_strings(inflate.decompress(data[4:]))
        data = inflate.unused_data
        title, text = lines[0].title(), "\n".join(lines)
        text = text.split("A NOTE ON THE TEXT")[0]  # a modern editor's, not Austen's
        text = re.sub(r"^ *(VOLUME [IVX]+|FINIS|Finis|THE END)$|^ *\[(End|At)\b[^\]]*\]|^[ *]+$", "", text, flags=re.M)
        chapters = re.split(r"^chapter [\dIVXL]+$", text, flags=re.M | re.I)
        for number, chapter in enumerate(chapters[1:], 1):
            yield f"austen/{title}/{number}", unwrap(chapter.split("\n"))


def r_strings(blob: bytes) -> list[str]:
    """The character vector in an XDR serialisation of R (header "X\\n", format version 2 or 3)."""
    version = struct.unpack_from(">i", blob, 2)[0]
    at = 14
    if version == 3:  # the name of the native encoding follows
        at += 4 + struct.unpack_from(">i", blob, at)[0]
    flags, count = struct.unpack_from(">Ii", blob, at)
    if blob[:2] != b"X\n" or flags & 0xFF != 16:  # STRSXP
        raise ValueError("not an R character vector")
    at += 8
    strings = []
    for _ in range(count):
        length = struct.unpack_from(">i", blob, at + 4)[0]
        strings.append(blob[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return strings


def bible(folder: Path) -> Iterator[tuple[str, str]]:
    """A SWORD zText module, a chapter at a time; units are named alike in every translation ("bible/Gen.1")."""
    module = next(folder.glob("usr/share/sword/modules/texts/ztext/*"))
    for testament in ("ot", "nt"):
        index, packed, verses = ((module / f"{testament}.{end}").read_bytes() for end in ("bzs", "bzz", "bzv"))
        blocks = [zlib.decompress(packed[at : at + size]) for at, size, _ in struct.iter_unpack("<III", index)]
        entries = [blocks[block][at : at + size] for block, at, size in struct.iter_unpack("<IIH", verses) if size]
        osis = b" ".join(entries).decode()
        for name, chapter in re.findall(r'<chapter n="\d+" osisID="([^"]+)"[^>]*/>(.*?)(?=<chapter )', osis, re.S):
            if not name.startswith(("EsthGr", "DanGr")):  # they repeat most of Esther and Daniel
                yield f"bible/{name}", osis_text(chapter)


def osis_text(osis: str) -> str:
    """The words of an OSIS fragment: no notes, titles or speakers; paragraphs and lines of verse end in a newline."""
    # Where a note is the only thing between two words, the space between them is missing in the source.
    osis = re.sub(r"(?<![\s-])(</\w+>)?<note.*?</note>(<[^/][^>]*>)?(?=\w)", r"\1 \2", osis, flags=re.S)
    osis = re.sub(r"<(note|title|speaker)\b.*?</\1>", "", osis, flags=re.S)
    osis = re.sub(r'<(l|lg|lb)\b[^>]*>|<div [^>]*type="x-p"/>', "\n", osis)
    text = plain(re.sub(r"<[^>]+>", "", osis))
    return re.sub(r" ([,.;:?!])", r"\1", text)


def synsets(folder: Path) -> Iterator[Synset]:
    """Every synset of WordNet, by part of speech and then in file order."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"usr/share/wordnet/data.{part}").read_text("latin-1").splitlines():
            if not line.startswith(" "):  # the licence is indented
                yield synset(line)


def synset(line: str) -> Synset:
    """Parse "offset lexfile pos count lemma id … | definition; "example"" (the manual page wndb(5WN))."""
    head, gloss = line.split("|", 1)
    offset, lexfile, pos, _, lemma = head.split(" ", 5)[:5]
    gloss = plain(gloss)
    word = re.sub(r"\((a|p|ip)\)$", "", lemma).replace("_", " ")
    definition = re.split(r'[;,:]?\s*"', gloss, maxsplit=1)[0].rstrip("; ")
    return Synset(pos + offset, word, PARTS_OF_SPEECH[pos], LEXFILES[int(lexfile)], definition, gloss)


def dictionary(folder: Path) -> Iterator[str]:
    """The entries of a dictd dictionary in file order: a first line "word (grammar): text", then further paragraphs."""
    data = decompress(next(folder.glob("usr/share/dictd/*.dict.dz")).read_bytes())
    places = set()
    for line in next(folder.glob("usr/share/dictd/*.index")).read_text().splitlines():
        word, *place = line.split("\t")
        if not word.startswith(("00-database", "00database")):  # the notices of the dictionary itself
            places.add((_base64(place[0]), _base64(place[1])))
    for at, size in sorted(places):
        entry = data[at : at + size].decode().strip("\n")
        yield jargon_entry(entry) if "jargon" in folder.name else unwrap(entry.split("\n"))


def jargon_entry(entry: str) -> str:
    """An entry of the Jargon File: word, then " /pronunciation/, grammar.", then text indented by four spaces."""
    word, grammar, *lines = entry.split("\n")
    grammar = re.sub(r"/[^/]*/,?", "", grammar).strip(" .,")
    body = [line for line in dedent("\n".join(lines)).strip("\n").split("\n") if not re.search("[\u2500-\u257f]", line)]
    text = f"{word} ({grammar}): {unwrap(body)}" if grammar else f"{word}: {unwrap(body)}"
    return plain(re.sub(r"\{\s*([^{}]*?)\s*\}", r"\1", text))  # {cross reference}


def _base64(digits: str) -> int:
    """dictd writes numbers in base 64."""
    value = 0
    for digit in digits:
        value = value * 64 + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".index(digit)
    return value
