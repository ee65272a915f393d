"""Text of one's own to measure on: files that are named, split where needed, and must not overlap.

`NAME=FILE` is cut in two at the line break nearest its middle, calibration first. `NAME.calib=FILE`
and `NAME.test=FILE` are taken as they are. Calibration and test text overlap, and are refused, if
they have a stretch of `SHARED` characters in common, runs of white space counting as one space: too
long for a turn of phrase, shorter than a sentence or two that was copied.
"""

import hashlib
import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rapgym.arrays import IntArray
from rapgym.corpus import SPLITS, Split
from rapgym.errors import DataUnavailable, InvalidSpec

SHARED = 256  # characters, a power of two
NAMED = re.compile(r"([a-z0-9][a-z0-9_-]{0,63})(?:\.(calib|test))?=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class OwnTexts:
    """Domains whose texts were given; a `corpus.Texts`."""

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
        raw = path.read_bytes()
        return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode()
    except OSError as error:
        raise DataUnavailable(f"--text: {path} cannot be read ({error.strerror})") from error
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataUnavailable(f"--text: {path} is no UTF-8 text: {error}") from error


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
