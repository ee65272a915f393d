"""What a submission says of itself: whose it is, what is to be run, what it cost, what it scores."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Literal, Self

from rapgym.bench import entrants
from rapgym.bench.records import Score, Verdict
from rapgym.bench.scoreboard import ACTION_SPACE
from rapgym.files import json_text, limits
from rapgym.policies import registry
from rapgym.policies.registry import SAVED
from rapgym.rivals import rivals

SCHEMA = 1
MOST_AUTHORS = 50
LONGEST = 300  # characters of a text
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LINK = re.compile(r"https://[A-Za-z0-9.-]+(/[A-Za-z0-9._~/#?&=%+-]*)?")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*( (AND|OR|WITH) [A-Za-z0-9][A-Za-z0-9.+-]*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_MARKUP = frozenset("<>|`[]\\*")  # would be more than text on a page


@dataclass(frozen=True, slots=True)
class Stated:
    """What its authors state, which nothing here can prove."""

    name: str  # lower-case words with dashes; none of rapgym's own
    authors: tuple[str, ...]
    link: str  # https, to where the policy is described
    licence: str  # SPDX, of all packed files
    note: str = ""  # one line for the page
    training_hours: float = 0.0  # of all training that led to it, tuning by hand included
    machine: str = ""  # that it was trained on
    calibration_passes: float = 0.0  # over 512-token sequences, beyond those of the quality table


@dataclass(frozen=True, slots=True)
class Stand:
    """What its rows give on one scenario, as `rapgym bench` scores them."""

    scenario: str  # id
    cost: float  # nats an output token above the full bf16 model, on test text
    gain: float | None  # points, and likewise
    foresight: float | None
    low: float | None  # ends of the interval of the cost's difference from the lookup
    high: float | None
    verdict: Verdict | None  # beside the lookup, not corrected for other entries

    @classmethod
    def of(cls, score: Score) -> Self:
        """That of an entry of a scoreboard."""
        return cls(**{each.name: getattr(score, each.name) for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class Header:
    """What `submission.json` holds."""

    stated: Stated
    policy: str  # module:Class, FILE.npz or sb3:FILE.zip, of a file below policy/
    scores: tuple[Stand, ...]
    files: Mapping[str, str]  # sha256 of every other file
    saw: Literal["train"] = "train"  # the one split that it was told of
    action_space: str = ACTION_SPACE

    def __post_init__(self) -> None:
        """Raises ValueError; the message says which field is wrong, and what it can be."""
        _check_stated(self.stated)
        if self.file is None and not _TARGET.fullmatch(self.policy):
            raise ValueError("policy can be module:Class, FILE.npz or sb3:FILE.zip")
        if self.saw != "train":
            raise ValueError("saw can only be train: who has seen other rows has no entry")
        if self.action_space != ACTION_SPACE:
            raise ValueError(f"action_space can only be {ACTION_SPACE!r}")
        if not self.scores:
            raise ValueError("scores names no scenario")
        if not all(_SHA256.fullmatch(each) for each in self.files.values()):
            raise ValueError("files gives a sha256 that has not 64 hexadecimal digits")

    @property
    def file(self) -> str | None:
        """The file that is the policy, where it is no module."""
        if self.policy.startswith(SAVED) or self.policy.endswith(".npz"):
            return self.policy.removeprefix(SAVED)
        return None

    @property
    def is_run(self) -> bool:
        """Whether it is a training run of a method of rapgym's: numbers, no code."""
        return self.policy.endswith(".npz")

    def text(self) -> str:
        """It as JSON for people."""
        told = {
            "schema": SCHEMA,
            **asdict(self.stated),
            "policy": self.policy,
            "saw": self.saw,
            "action_space": self.action_space,
            "scores": [asdict(each) for each in self.scores],
            "files": dict(sorted(self.files.items())),
        }
        return json.dumps(told, indent=2, allow_nan=False) + "\n"

    @classmethod
    def of(cls, content: bytes) -> Self:
        """What `text` gives, read without trust.

        Raises:
            ValueError: a field is missing, unknown, or holds what it cannot.
        """
        if len(content) > limits.SUBMISSION_HEADER:
            raise ValueError("it is too large")
        given = json_text.parsed(content)
        if not isinstance(given, dict) or given.get("schema") != SCHEMA:
            found = given.get("schema") if isinstance(given, dict) else None
            raise ValueError(
                f"schema is {str(found)[:40]}, this version of rapgym reads {SCHEMA}: pack it again "
                "with rapgym submit"
            )
        stated = [each.name for each in fields(Stated)]
        _check_fields(
            given, {*stated, "schema", "policy", "saw", "action_space", "scores", "files"}
        )
        return cls(
            stated=Stated(
                **{name: _text(given, name) for name in stated if name not in _OTHERS},
                authors=tuple(_list_of_text(given["authors"])),
                training_hours=_number(given["training_hours"], "training_hours"),
                calibration_passes=_number(given["calibration_passes"], "calibration_passes"),
            ),
            policy=_text(given, "policy"),
            scores=tuple(_stand(each) for each in _list(given["scores"], "scores")),
            files={name: _text(given["files"], name) for name in _mapping(given["files"], "files")},
            saw=given["saw"],
            action_space=given["action_space"],
        )


_OTHERS = ("authors", "training_hours", "calibration_passes")  # fields that are no text


@cache
def taken() -> frozenset[str]:
    """Names of rapgym's own policies, rivals and oracles: an entry has another."""
    names = [each.name for each in (*entrants.every(), *entrants.ORACLES)]
    names += [each.name for each in registry.starts()]
    return frozenset((*names, *(each.name for each in rivals.PRUNED)))


def _check_stated(stated: Stated) -> None:
    if not _NAME.fullmatch(stated.name) or len(stated.name) > 40:
        raise ValueError(
            f"name is {stated.name[:60]!r}; it can be 1 to 40 lower-case letters, digits and dashes"
        )
    if stated.name in taken():
        raise ValueError(f"name is {stated.name}, which is one of rapgym's own: take another")
    if not 1 <= len(stated.authors) <= MOST_AUTHORS:
        raise ValueError(f"authors names {len(stated.authors)}; it can name 1 to {MOST_AUTHORS}")
    for name, text in (
        *(("authors", each) for each in stated.authors),
        ("note", stated.note),
        ("machine", stated.machine),
    ):
        if len(text) > LONGEST or not text.isprintable() or _MARKUP & {*text}:
            raise ValueError(
                f"{name} can be one line of at most {LONGEST} characters, without {''.join(sorted(_MARKUP))}"
            )
    if not all(each.strip() for each in stated.authors):
        raise ValueError("authors names one without letters")
    if not _LINK.fullmatch(stated.link) or len(stated.link) > LONGEST:
        raise ValueError("link can be an https:// address of a page that describes the policy")
    if not _LICENCE.fullmatch(stated.licence) or len(stated.licence) > 100:
        raise ValueError(
            "licence can be an SPDX expression such as MIT: without one nobody may run the policy"
        )
    for name in ("training_hours", "calibration_passes"):
        value = getattr(stated, name)
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} can be a number of 0 or more")


def _check_fields(given: Mapping[str, Any], wanted: set[str]) -> None:
    if unknown := given.keys() - wanted:
        raise ValueError(f"it has what none has: {', '.join(sorted(unknown))[:200]}")
    if missing := wanted - given.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given[name]
    if not isinstance(value, str):
        raise ValueError(f"{name[:100]} is no text")
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def _list_of_text(value: object) -> list[str]:
    found = _list(value, "authors")
    if not all(isinstance(each, str) for each in found):
        raise ValueError("authors is no list of texts")
    return found


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large a number") from None


def _stand(value: object) -> Stand:
    given = _mapping(value, "an entry of scores")
    _check_fields(given, {each.name for each in fields(Stand)})
    numbers = {
        name: None if given[name] is None else _number(given[name], name)
        for name in ("gain", "foresight", "low", "high")
    }
    verdict = given["verdict"]
    if verdict not in (None, "better", "worse", "equal", "undecided"):
        raise ValueError("verdict of scores is none of the four")
    return Stand(
        scenario=_text(given, "scenario"),
        cost=_number(given["cost"], "cost"),
        verdict=verdict,
        **numbers,
    )
