"""The header of a quality table: model, texts, orders, provenance; and its checks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np

from rapgym.errors import InvalidTable
from rapgym.model.shapes import KVFormat, WeightFormat

SCHEMA = 1
MAX_BLOCKS = 4096
LARGEST = 1e6  # nats, tokens a row: beyond it a number is damage
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Sample:
    """Text on which rows are measured, and what dense and the unigram model lose there, nats a token."""

    name: str
    split: Literal["calib", "test"]
    tokens: tuple[int, ...]  # predicted tokens of each domain
    dense_nll: tuple[float, ...]  # of each domain
    unigram_nll: tuple[float, ...]  # of each domain; counts from calibration text of that domain
    unigram_nll_pooled: tuple[float, ...]  # of each domain; counts from all domains together


@dataclass(frozen=True, slots=True)
class Orders:
    """Blocks in the order in which greedy search on one sample drops them, cheapest first."""

    sample: str
    attention: tuple[int, ...]
    ffn: tuple[int, ...]
    joint: tuple[int, ...]  # of just the blocks of the other two: those above the floor


@dataclass(frozen=True, slots=True)
class FormatQuality:
    """What the dense model loses in a format of weights and KV, as differences from dense bf16."""

    weights: WeightFormat
    kv: KVFormat
    sample: str
    nll: tuple[float, ...]  # nats a token above dense bf16, of each domain
    nll_se: tuple[float, ...]  # of each domain
    kl: tuple[float, ...]  # of each domain
    top1: tuple[float, ...]  # of each domain
    nll_p95: float  # 95th percentile of the sequences' mean differences


@dataclass(frozen=True, slots=True)
class Header:
    """What a table says of itself, apart from its rows."""

    model: str
    blocks: int  # N
    sequence_tokens: int
    weights: str  # format of the blocks' weights, as `shapes.Format` names it
    kv: str
    domains: tuple[str, ...]
    samples: tuple[Sample, ...]
    orders: tuple[Orders, ...]  # one a draw of calibration text; the first is the table's
    formats: tuple[FormatQuality, ...] = ()  # of the dense model; one a format and sample
    block_influence: tuple[float, ...] = ()  # of each layer, on the first order's text; or none
    predictors: dict[str, Any] = field(
        default_factory=dict
    )  # as `rapgym.quality.predictor` writes them
    provenance: dict[str, Any] = field(default_factory=dict)  # for people; nothing computes with it

    def sample(self, name: str) -> Sample:
        return next(sample for sample in self.samples if sample.name == name)


def header_of(found: Any) -> Header:
    """The header that a decoded JSON value describes.

    Raises:
        InvalidTable: it describes none.
    """
    if not isinstance(found, dict):
        raise InvalidTable("its header is no object")
    if found.get("schema") != SCHEMA:
        raise InvalidTable(f"schema {found.get('schema')!r}, where this version reads {SCHEMA}")
    n = _integer(found, "blocks", 2, MAX_BLOCKS)
    if n % 2:
        raise InvalidTable("an odd number of blocks")
    domains = tuple(plain_name(domain, "domain") for domain in _list(found, "domains"))
    samples = tuple(_sample(entry, len(domains)) for entry in _list(found, "samples"))
    names = tuple(sample.name for sample in samples)
    if not domains or len({*domains}) != len(domains) or len({*names}) != len(names):
        raise InvalidTable("domains and samples need names, each its own")
    orders = tuple(_orders(entry, n, names) for entry in _list(found, "orders"))
    if not orders:
        raise InvalidTable("no greedy order")
    formats = tuple(_format(entry, len(domains), names) for entry in _list(found, "formats", ()))
    if len({(f.weights, f.kv, f.sample) for f in formats}) != len(formats):
        raise InvalidTable("a format has two records on one sample")
    influence = _list(found, "block_influence", ())
    objects = {}
    for name in ("predictors", "provenance"):
        objects[name] = found.get(name, {})
        if not isinstance(objects[name], dict):
            raise InvalidTable(f"{name} is no object")
    return Header(
        model=_text(found, "model"),
        blocks=n,
        sequence_tokens=_integer(found, "sequence_tokens", 1, 1 << 31),
        weights=_text(found, "weights"),
        kv=_text(found, "kv"),
        domains=domains,
        samples=samples,
        orders=orders,
        formats=formats,
        block_influence=_numbers(found, "block_influence", n // 2, 0.0) if influence else (),
        **objects,
    )


def _sample(entry: Any, domains: int) -> Sample:
    if not isinstance(entry, dict) or entry.get("split") not in ("calib", "test"):
        raise InvalidTable("a sample is neither calibration nor test text")
    tokens = _numbers(entry, "tokens", domains, 1.0)
    if any(token != int(token) for token in tokens):
        raise InvalidTable("tokens are not whole")
    return Sample(
        plain_name(entry.get("name"), "sample"),
        entry["split"],
        tuple(int(token) for token in tokens),
        _numbers(entry, "dense_nll", domains, 0.0),
        _numbers(entry, "unigram_nll", domains, 0.0),
        _numbers(entry, "unigram_nll_pooled", domains, 0.0),
    )


def _orders(entry: Any, n: int, samples: tuple[str, ...]) -> Orders:
    if not isinstance(entry, dict) or entry.get("sample") not in samples:
        raise InvalidTable("an order was found on no sample of the table")
    found = []
    for kind in ("attention", "ffn", "joint"):
        order = _list(entry, kind)
        if any(type(block) is not int or not 0 <= block < n for block in order):
            raise InvalidTable(f"the {kind} order names no blocks of the model")
        found.append(tuple(order))
    attention, ffn, joint = found
    if any(block % 2 for block in attention) or any(block % 2 == 0 for block in ffn):
        raise InvalidTable("an order holds blocks of the wrong kind")
    if len({*joint}) != len(joint) or sorted(joint) != sorted(attention + ffn):
        raise InvalidTable("the joint order is not one of the attention and FFN orders' blocks")
    if len(attention) >= n // 2:
        raise InvalidTable("the floor keeps no attention block")
    return Orders(entry["sample"], attention, ffn, joint)


def _format(entry: Any, domains: int, samples: tuple[str, ...]) -> FormatQuality:
    if not isinstance(entry, dict) or entry.get("sample") not in samples:
        raise InvalidTable("a format was measured on no sample of the table")
    weights: Any = entry.get("weights")
    kv: Any = entry.get("kv")
    if weights not in get_args(WeightFormat) or kv not in get_args(KVFormat):
        raise InvalidTable(f"a format of {weights!r} weights and {kv!r} KV")
    least = {"nll": -LARGEST, "nll_se": 0.0, "kl": -LARGEST, "top1": 0.0}
    return FormatQuality(
        weights,
        kv,
        entry["sample"],
        **{name: _numbers(entry, name, domains, floor) for name, floor in least.items()},
        nll_p95=_numbers({"nll_p95": [entry.get("nll_p95")]}, "nll_p95", 1, -LARGEST)[0],
    )


def _list(found: dict[str, Any], name: str, otherwise: Any = None) -> list[Any]:
    """The list of this name; `otherwise` where older tables have none."""
    value = found.get(name, otherwise)
    if not isinstance(value, list | tuple):
        raise InvalidTable(f"{name} is no list")
    return list(value)


def _text(found: dict[str, Any], name: str) -> str:
    if not isinstance(found.get(name), str) or not found[name]:
        raise InvalidTable(f"{name} is no text")
    return str(found[name])


def plain_name(value: Any, what: str) -> str:
    """`value`, a name that can stand in a CSV cell as it is.

    Raises:
        InvalidTable: it is none.
    """
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InvalidTable(f"a {what} without a plain name")
    return value


def _integer(found: dict[str, Any], name: str, least: int, most: int) -> int:
    value = found.get(name)
    if type(value) is not int or not least <= value <= most:
        raise InvalidTable(f"{name} is no whole number from {least} to {most}")
    return value


def _numbers(found: dict[str, Any], name: str, count: int, least: float) -> tuple[float, ...]:
    values = _list(found, name)
    if len(values) != count or any(
        type(value) not in (int, float) or not least <= value <= LARGEST for value in values
    ):
        raise InvalidTable(f"{name} needs {count} numbers from {least} to {LARGEST:.0e}")
    return tuple(float(value) for value in values)


@dataclass(frozen=True, slots=True)
class Spread:
    """Two draws' orders of one kind, compared."""

    kind: str  # "attention", "ffn" or "joint"
    samples: tuple[str, str]
    length: int  # of the shorter one
    shared: int  # blocks among the first `length` of both
    half_shared: int  # blocks among the first `length // 2` of both
    tau: float  # Kendall's, over the blocks that both list; NaN for fewer than two


def spreads(draws: Sequence[Orders]) -> list[Spread]:
    """Every pair of draws, kind by kind."""
    found = []
    for kind in ("attention", "ffn", "joint"):
        for one, other in combinations(draws, 2):
            a, b = getattr(one, kind), getattr(other, kind)
            length = min(len(a), len(b))
            found.append(
                Spread(
                    kind=kind,
                    samples=(one.sample, other.sample),
                    length=length,
                    shared=len({*a[:length]} & {*b[:length]}),
                    half_shared=len({*a[: length // 2]} & {*b[: length // 2]}),
                    tau=kendall_tau(a, b),
                )
            )
    return found


def kendall_tau(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of pairs in the same order less share of pairs in the other, of the blocks both list.

    1 for the same order, -1 for the reverse, about 0 for unrelated ones.
    """
    place = {block: rank for rank, block in enumerate(b)}
    ranks = [place[block] for block in a if block in place]
    signs = [np.sign(later - earlier) for earlier, later in combinations(ranks, 2)]
    return float(np.mean(signs)) if signs else float("nan")
