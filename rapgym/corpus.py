"""Texts on which quality is measured: three domains, calibration text disjoint from test text."""

import lzma
from dataclasses import dataclass
from typing import Literal, Protocol

from rapgym.errors import DataUnavailable, WrongChecksum
from rapgym.files import checked

Split = Literal["calib", "test"]
SPLITS: tuple[Split, Split] = ("calib", "test")
DOMAINS = ("books", "specs", "wiki")


@dataclass(frozen=True, slots=True)
class Text:
    """One text of one domain and split, as its manifest records it."""

    domain: str
    split: Split
    sha256: str  # of the xz file
    licence: str


TEXTS = (
    Text("books", "calib", "1142b86dd4529baa5e766430107339662171ead7ac20be16959afee8bcb1a229", "CC0-1.0"),
    Text("books", "test", "070a133ba6a2d56f58df84c4c11079a0cfe65ba72006fb77ec89eb8cd93abeb1", "CC0-1.0"),
    Text("specs", "calib", "d5a84e78b5cc28c1ba63937435e1c6100b27e9ef64d8602b14cdfc0df9ba578c", "mixed, see its manifest"),
    Text("specs", "test", "629c31c2ff2c428e18338f73424d97131a951ba3e7b62b6840cadfe9267314e2", "mixed, see its manifest"),
    Text("wiki", "calib", "1322771e23310248961e17b3c55df138cd3e5c57f2e36ac1d131e9c6158ccd74", "CC-BY-SA-3.0"),
    Text("wiki", "test", "306c08b989e77ca6d5587c58d90bf8f8fa3be85671b0eda75315de9f68584fbe", "CC-BY-SA-3.0"),
)  # fmt: skip


def text_of(domain: str, split: Split) -> Text:
    """The record of one text."""
    for text in TEXTS:
        if (text.domain, text.split) == (domain, split):
            return text
    raise DataUnavailable(f"no text {domain}.{split}; domains are {', '.join(DOMAINS)}")


def read(domain: str, split: Split) -> str:
    """The characters of one text, from the local mirror.

    Raises:
        DataUnavailable, WrongChecksum: it is not there, or not what it should be.
    """
    text = text_of(domain, split)
    mirror = checked.mirror_folder()
    name = f"corpus/{domain}.{split}.txt.xz"
    if mirror is None:
        raise DataUnavailable(f"{name} is needed: set RAPGYM_DATA to a folder that holds it")
    path = checked.checked(mirror / name, text.sha256, "restore it in the RAPGYM_DATA mirror")
    try:
        return lzma.decompress(path.read_bytes()).decode()
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise WrongChecksum(f"{path} cannot be unpacked: {error}") from error


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


class Shipped:
    """The three domains of `TEXTS`."""

    domains = DOMAINS

    def read(self, domain: str, split: Split) -> str:
        return read(domain, split)

    def sha256(self, domain: str, split: Split) -> str:
        return text_of(domain, split).sha256


SHIPPED = Shipped()
