"""Texts on which quality is measured: three domains, calibration text disjoint from test text."""

import hashlib
import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from rapgym.arrays import IntArray
from rapgym.errors import DataUnavailable, InvalidSpec, WrongChecksum
from rapgym.files import checked, download, incoming, limits

Split = Literal["calib", "test"]
SPLITS: tuple[Split, Split] = ("calib", "test")
DOMAINS = ("books", "specs", "wiki")


@dataclass(frozen=True, slots=True)
class Text:
    """One text of one domain and split, as its manifest records it."""

    domain: str
    split: Split
    sha256: str  # of the xz file in the mirror
    licence: str
    # Of the public file with the same content, where there is one: its address, and its sha256.
    url: str = ""
    content_sha256: str = ""

    @property
    def name(self) -> str:
        return f"{self.domain}.{self.split}"

    @property
    def mirrored(self) -> str:
        """Its path in a mirror."""
        return f"corpus/{self.name}.txt.xz"

    @property
    def cached(self) -> Path:
        """Where `pull` puts the public file."""
        return checked.cache_folder() / "texts" / f"{self.name}.txt"


# WikiText-2 (Merity et al. 2016): its valid part is for calibration.
_WIKITEXT = (
    "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/"
    "word_language_model/data/wikitext-2/"
)


TEXTS = (
    Text("books", "calib", "1142b86dd4529baa5e766430107339662171ead7ac20be16959afee8bcb1a229", "CC0-1.0"),
    Text("books", "test", "070a133ba6a2d56f58df84c4c11079a0cfe65ba72006fb77ec89eb8cd93abeb1", "CC0-1.0"),
    Text("specs", "calib", "d5a84e78b5cc28c1ba63937435e1c6100b27e9ef64d8602b14cdfc0df9ba578c", "mixed, see its manifest"),
    Text("specs", "test", "629c31c2ff2c428e18338f73424d97131a951ba3e7b62b6840cadfe9267314e2", "mixed, see its manifest"),
    Text("wiki", "calib", "1322771e23310248961e17b3c55df138cd3e5c57f2e36ac1d131e9c6158ccd74", "CC-BY-SA-3.0",
         f"{_WIKITEXT}valid.txt", "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
    Text("wiki", "test", "306c08b989e77ca6d5587c58d90bf8f8fa3be85671b0eda75315de9f68584fbe", "CC-BY-SA-3.0",
         f"{_WIKITEXT}test.txt", "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"),
)  # fmt: skip


def text_of(domain: str, split: Split) -> Text:
    """The record of one text."""
    for text in TEXTS:
        if (text.domain, text.split) == (domain, split):
            return text
    raise DataUnavailable(f"no text {domain}.{split}; domains are {', '.join(DOMAINS)}")


PULLED = tuple(dict.fromkeys(text.domain for text in TEXTS if text.url))  # domains anybody can have


def path_of(text: Text) -> Path:
    """The file of a text on this machine, checked: of the mirror, else what was pulled.

    Raises:
        DataUnavailable: it is in neither place.
        WrongChecksum: it is not what it should be.
    """
    mirror = checked.mirror_folder()
    if mirror is not None and (mirror / text.mirrored).is_file():
        return checked.checked(
            mirror / text.mirrored, text.sha256, "restore it in the RAPGYM_DATA mirror"
        )
    named = f"set RAPGYM_DATA to a folder that holds {text.mirrored}"
    if not text.url:
        raise DataUnavailable(
            f"the text {text.name} is not on this machine and has no single public source: {named}, give texts of "
            f"your own (rapgym measure --text NAME=FILE), or measure on {', '.join(PULLED)} alone, which rapgym "
            "texts pull gets"
        )
    remedy = "run: rapgym texts pull"
    if not text.cached.is_file():
        raise DataUnavailable(f"the text {text.name} is not on this machine; {remedy}; or {named}")
    return checked.checked(text.cached, text.content_sha256, remedy)


def pull(text: Text) -> Path:
    """The public file of a text, in the cache; what a mirror has is not fetched.

    Raises:
        DataUnavailable: it has no public source, or that cannot be reached.
        WrongChecksum: the source has another content now.
    """
    mirror = checked.mirror_folder()
    if not text.url or (mirror is not None and (mirror / text.mirrored).is_file()):
        return path_of(text)
    return download.download(
        text.url, text.cached, text.content_sha256, f"set RAPGYM_DATA to a folder that holds {text.mirrored}"
    )  # fmt: skip


def read(domain: str, split: Split) -> str:
    """The characters of one text, from the local mirror or as it was pulled.

    Raises:
        DataUnavailable, WrongChecksum: it is not there, or not what it should be.
    """
    path = path_of(text_of(domain, split))
    try:
        content = path.read_bytes()
        return (lzma.decompress(content) if path.suffix == ".xz" else content).decode()
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise WrongChecksum(f"{path} cannot be unpacked: {error}") from error


def here() -> tuple[str, ...]:
    """The domains whose texts are on this machine, in order.

    Raises:
        DataUnavailable: none is; the message says how to get some.
        WrongChecksum: a text is damaged.
    """
    found = []
    for domain in DOMAINS:
        try:
            for split in SPLITS:
                read(domain, split)
        except WrongChecksum:
            raise
        except DataUnavailable:
            continue
        found.append(domain)
    if not found:
        raise DataUnavailable(
            f"no text to measure on is on this machine: run rapgym texts pull, which gets {', '.join(PULLED)}; set "
            "RAPGYM_DATA to a folder that holds corpus/books.calib.txt.xz and so on; or give texts of your own "
            "(rapgym measure --text NAME=FILE)"
        )
    return tuple(found)


class Texts(Protocol):
    """Text of some domains, each with a part for calibration and a disjoint one for test."""

    @property
    def domains(self) -> tuple[str, ...]: ...

    def read(self, domain: str, split: Split) -> str:
        """The characters of one text."""
        ...

    def sha256(self, domain: str, split: Split) -> str:
        """What a ledger remembers it by."""
        ...


@dataclass(frozen=True, slots=True)
class Shipped:
    """Domains of `TEXTS`."""

    domains: tuple[str, ...] = DOMAINS

    def read(self, domain: str, split: Split) -> str:
        return read(domain, split)

    def sha256(self, domain: str, split: Split) -> str:
        return text_of(domain, split).sha256


SHIPPED = Shipped()

SHARED = 256  # characters, a power of two
NAMED = re.compile(r"([a-z0-9][a-z0-9_-]{0,63})(?:\.(calib|test))?=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class OwnTexts:
    """Domains whose texts were given; a `Texts`."""

    domains: tuple[str, ...]
    parts: dict[tuple[str, Split], str]

    def read(self, domain: str, split: Split) -> str:
        """The characters of one text."""
        return self.parts[domain, split]

    def sha256(self, domain: str, split: Split) -> str:
        """Of its characters in UTF-8."""
        return hashlib.sha256(self.parts[domain, split].encode()).hexdigest()


def named(arguments: Iterable[str]) -> OwnTexts:
    """The texts that `NAME=FILE`, or `NAME.calib=FILE` and `NAME.test=FILE`, name.

    Raises:
        InvalidSpec: a name is none, or given twice; a domain lacks a part; calibration and test
            text of any two domains overlap.
        DataUnavailable: a file is missing or no UTF-8 text (packed by xz or not).
    """
    parts: dict[tuple[str, Split], str] = {}
    for argument in arguments:
        found = NAMED.fullmatch(argument)
        if not found:
            raise InvalidSpec(
                f"--text {argument!r}: write NAME=FILE, or NAME.calib=FILE and NAME.test=FILE; a "
                "name has lower-case letters, digits, - and _"
            )
        name, content = found[1], _content(Path(found[3]))
        cut = dict(zip(SPLITS, halves(content), strict=True))
        for place in SPLITS:
            if found[2] not in (None, place):
                continue
            text = content if found[2] else cut[place]
            if (name, place) in parts:
                raise InvalidSpec(f"--text {argument!r}: {name}.{place} is given twice")
            parts[name, place] = text
    domains = tuple(dict.fromkeys(name for name, _ in parts))
    for name in domains:
        for place in SPLITS:
            if (name, place) not in parts:
                raise InvalidSpec(
                    f"--text {name}: its {place} part is missing ({name}.{place}=FILE)"
                )
    _refuse_overlap(domains, parts)
    return OwnTexts(domains, parts)


def _content(path: Path) -> str:
    try:
        with incoming.opened(path) as file:
            pieces = incoming.unpacked(file, "xz" if path.suffix == ".xz" else "", limits.OWN_TEXT)
            return b"".join(pieces).decode()
    except OSError as error:
        raise DataUnavailable(f"--text: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataUnavailable(f"--text: {str(path)!r} is no UTF-8 text: {error}") from error


def halves(text: str) -> tuple[str, str]:
    """The text cut at the line break nearest its middle, or at the middle where it has none."""
    middle = len(text) // 2
    before, after = text.rfind("\n", 0, middle) + 1, text.find("\n", middle) + 1
    cuts = [cut for cut in (before, after) if 0 < cut < len(text)]
    cut = min(cuts, key=lambda place: abs(place - middle), default=middle)
    return text[:cut], text[cut:]


def _refuse_overlap(domains: tuple[str, ...], parts: dict[tuple[str, Split], str]) -> None:
    for calib in domains:
        for test in domains:
            stretch = common_stretch(parts[calib, "calib"], parts[test, "test"])
            if stretch:
                raise InvalidSpec(
                    f"--text: {calib}.calib and {test}.test overlap: both hold {stretch[:60]!r} and "
                    f"what follows, {SHARED} characters and more. What is chosen on calibration "
                    "text would be judged on text that it has seen: give others"
                )


def common_stretch(one: str, other: str) -> str:
    """The first `SHARED` characters in a row of `one` that are in `other` too; empty if none.

    Runs of white space count as one space.
    """
    one, other = " ".join(one.split()), " ".join(other.split())
    places, others = _fingerprints(one), _fingerprints(other)
    for place in np.flatnonzero(np.isin(places, others)):
        stretch = one[place : place + SHARED]
        if stretch in other:  # two different stretches may have one fingerprint
            return stretch
    return ""


def _fingerprints(text: str) -> IntArray:
    """A number of each stretch of `SHARED` characters, [len(text) - SHARED + 1]: equal for equal."""
    if len(text) < SHARED:
        return np.zeros(0, dtype=np.uint64).astype(np.int64)
    found = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    factor, width = 0x9E3779B97F4A7C15, 1
    while width < SHARED:  # of twice the width from two neighbours, modulo 2**64
        found = found[:-width] * np.uint64(factor) + found[width:]
        factor, width = factor * factor % (1 << 64), 2 * width
    return found.view(np.int64)
