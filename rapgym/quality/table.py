"""Quality tables: kept set -> measured nats a token above dense, or a prediction flagged as one.

A `QualityTable` is read from its file; policies get its calibration columns, the scorer its test
columns, and neither can reach the other's numbers through what it was given (but that the sets of
the grid, and the mean of the test predictor, come from calibration text in both).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rapgym import heldout
from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidTable, UnmeasuredSet, WrongChecksum
from rapgym.files import places
from rapgym.model import blocks
from rapgym.model.shapes import BF16, Format
from rapgym.quality import file as table_file
from rapgym.quality import predictor
from rapgym.quality import sets as measured_sets
from rapgym.quality.columns import QualityColumns
from rapgym.quality.file import TableFile
from rapgym.quality.header import FormatQuality, Header
from rapgym.quality.sets import MeasuredSets

if TYPE_CHECKING:
    import pandas


class QualityTable:
    """One table: measured quality of kept sets of one model in one format, with provenance."""

    def __init__(self, name: str, file: TableFile) -> None:
        self.name, self.file = name, file
        self._views: dict[tuple[str, str | None, int | None], QualityColumns] = {}

    @classmethod
    def load(cls, name: str | Path, sha256: str | None = None) -> Self:
        """Read a shipped table by its name, or any by its path.

        Args:
            sha256: what the file must be; not checked where None.

        Raises:
            DataUnavailable: there is no such table.
            WrongChecksum: its sha256 is another.
            InvalidTable: it is damaged.
        """
        path = path_of(name)
        file = table_file.read(path)
        if sha256 is not None and file.sha256 != sha256:
            raise WrongChecksum(
                f"{path} is another table (sha256 {file.sha256[:12]}..., expected "
                f"{sha256[:12]}...); results with it do not compare: restore the file"
            )
        return cls(path.name.removesuffix(table_file.SUFFIX), file)

    @property
    def header(self) -> Header:
        return self.file.header

    @property
    def model(self) -> str:
        return self.header.model

    @property
    def sha256(self) -> str:
        return self.file.sha256

    @property
    def blocks(self) -> int:
        """N."""
        return self.header.blocks

    @property
    def floor(self) -> BoolArray:
        """Blocks that every kept set holds, bool [N]: the smallest set the table vouches for."""
        return blocks.floor_of(self.header.orders[0].joint, self.blocks)

    def ceiling(self, domain: str | None = None) -> float:
        """C, nats: a unigram model's nll less dense's on calibration text. DESIGN.md section 5."""
        judged = {orders.sample for orders in self.header.orders}
        calib = [s for s in self.header.samples if s.split == "calib"]
        if not calib:
            raise InvalidTable(f"{self.name} holds no calibration text")
        text = max(calib, key=lambda s: (s.name not in judged, sum(s.tokens), s.name))
        if domain is None:
            return float(np.mean(text.unigram_nll_pooled) - np.mean(text.dense_nll))
        d = self._domain(domain)
        return text.unigram_nll[d] - text.dense_nll[d]

    def format_nll(self, form: Format, split: str, domain: str | None = None) -> float:
        """Nats a token that the dense model loses in a format, above dense bf16.

        On the sample of the split ("calib" or "test") that has the most tokens. What other
        checkpoints lose may be more: one whose weights have been through four bits, as the
        reference model's, gives a lower bound for int4.

        Raises:
            UnmeasuredSet: it is not measured on this split.
            InvalidTable: there is no such domain.
        """
        if form == BF16:
            return 0.0
        nll = self._format(form, split).nll
        return float(np.mean(nll if domain is None else nll[self._domain(domain)]))

    def format_nll_se(self, form: Format, split: str, domain: str | None = None) -> float:
        """Standard error of `format_nll`, and it raises as that does; domains are independent."""
        if form == BF16:
            return 0.0
        se = self._format(form, split).nll_se
        if domain is not None:
            return se[self._domain(domain)]
        return float(np.hypot.reduce(se)) / len(se)

    def _format(self, form: Format, split: str) -> FormatQuality:
        found = {f.sample: f for f in self.header.formats if Format(f.weights, f.kv) == form}
        for sample in measured_sets.samples_of(self.header, split):
            if sample.name in found:
                return found[sample.name]
        raise UnmeasuredSet(
            f"{self.name} has no measurement of {form.weights} weights with {form.kv} KV on {split} "
            f"text; add it with: rapgym measure {self.model} --design formats"
        )

    def calibration(self, domain: str | None = None, draw: int | None = None) -> QualityColumns:
        """What policies, the shield and rewards may read; no number in it is from test text.

        Args:
            domain: None for the mean of all.
            draw: whose orders to give: None for the table's, with the best measured set at each
                pair of counts as its grid; k for those found on draw k of calibration text, whose
                grid is the crossing of its orders' prefixes, measured or not (0 included, so that
                draws compare). What is measured, M and the floor stay the table's.

        Raises:
            InvalidTable: no such domain or draw, or a design is missing; the message names it.
        """
        return self._view("calib", domain, draw)

    def test(self, domain: str | None = None) -> QualityColumns:
        """What the scorer reads, and it alone.

        Raises:
            HeldOut: training asks.
            InvalidTable: as `calibration`, or no set was measured on test text.
        """
        heldout.check(heldout.COLUMNS)
        return self._view("test", domain)

    def _view(self, split: str, domain: str | None, draw: int | None = None) -> QualityColumns:
        if (split, domain, draw) not in self._views:
            if draw is not None:
                view = self._drawn(domain, draw)
            else:
                calib = None if split == "calib" else self.calibration(domain)
                view = self._columns(split, domain, calib)
            self._views[split, domain, draw] = view
        return self._views[split, domain, draw]

    def _columns(
        self, split: str, domain: str | None, calib: QualityColumns | None
    ) -> QualityColumns:
        sets, floor = measured_sets.of_split(self.file, split, domain), self.floor
        orders = self.header.orders[0]
        attention, ffn, joint = (
            np.array(order, dtype=np.int64)
            for order in (orders.attention, orders.ffn, orders.joint)
        )
        ceiling, influence = self.ceiling(domain), self.header.block_influence
        if calib is None:
            kept = measured_sets.best_sets(sets, floor, attention, ffn)
            single = self._singles(sets, np.full(self.blocks, np.nan))
            if np.isnan(single).any():
                raise InvalidTable(
                    f"{self.name} lacks single removals on calibration text: measure the design `single`"
                )
            importance = self._importance(domain, joint, floor, ceiling)
        else:
            kept, importance = calib.grid_kept, calib.importance
            single = self._singles(sets, calib.single)
        return QualityColumns(
            name=self.name,
            split=split,
            domain=domain,
            sets=sets,
            floor=floor,
            order=joint,
            attention_order=attention,
            ffn_order=ffn,
            at_counts=measured_sets.best_at_counts(sets, floor),
            grid_kept=kept,
            grid_measured=sets.rows(kept) >= 0,
            single=single,
            importance=importance,
            block_influence=np.array(influence, dtype=np.float64) if influence else None,
            ceiling=ceiling,
            predictor_settings=predictor.settings_of(self._fitted(split).get("settings")),
            mean=calib,
        )

    def _drawn(self, domain: str | None, draw: int) -> QualityColumns:
        """The table's calibration columns with the orders of one draw of text.

        Blocks of the table's floor are passed over in that draw's orders; blocks above the floor
        that it does not list go last, in the table's order.
        """
        first, draws = self.calibration(domain), self.header.orders
        if not 0 <= draw < len(draws):
            raise InvalidTable(
                f"{self.name} has orders of {len(draws)} draws of calibration text, none of number "
                f"{draw}: measure more with: rapgym measure {self.model} --draws 3"
            )
        own = draws[draw]
        joint = _above_floor(first.order, own.joint)
        attention = _above_floor(first.attention_order, own.attention)
        ffn = _above_floor(first.ffn_order, own.ffn)
        kept = measured_sets.crossing(attention, ffn, self.blocks)
        return replace(
            first,
            order=joint,
            attention_order=attention,
            ffn_order=ffn,
            grid_kept=kept,
            grid_measured=first.sets.rows(kept) >= 0,
            importance=first.importance
            if draw == 0
            else self._drawn_importance(first, draw, joint),
        )

    def _drawn_importance(self, first: QualityColumns, draw: int, joint: IntArray) -> FloatArray:
        """Increments along a draw's joint order, measured on its own text as far as that has them.

        The rest, and everything where the table lacks them, is what the table's columns say of the
        prefixes of `joint`, the order above the floor.
        """
        on_the_way = first.nll(measured_sets.prefixes(joint, self.blocks))[0]
        found = np.zeros(self.blocks)
        found[joint] = np.diff(on_the_way)
        own = self.header.orders[draw]
        sets = measured_sets.of_samples(self.file, [self.header.sample(own.sample)], first.domain)
        rows = sets.rows(measured_sets.prefixes(np.array(own.joint), self.blocks))
        if (rows >= 0).all():
            found[list(own.joint)] = np.diff(sets.nll[rows])
        found[self.floor] = 0.0
        found[self.floor] = 2 * max(first.ceiling, *found)
        return found

    def _domain(self, domain: str) -> int:
        if domain not in self.header.domains:
            known = ", ".join(self.header.domains)
            raise InvalidTable(f"no domain {domain!r}; the table has {known}")
        return self.header.domains.index(domain)

    def _fitted(self, split: str) -> dict[str, Any]:
        """What the header stores of one split's predictor."""
        found = self.header.predictors.get(split, {})
        if not isinstance(found, dict):
            raise InvalidTable(f"{self.name}: its header's predictors are damaged")
        return found

    def held_out(self, split: str, domain: str | None = None) -> list[dict[str, Any]]:
        """Errors of the predictor on sets that its fit did not see, one entry a design.

        As `predictor_tuning.errors` computes them; empty where the table stores none.
        """
        found = self._fitted(split).get("held_out", {})
        return list(found.get(domain or "mean", [])) if isinstance(found, dict) else []

    def _singles(self, sets: MeasuredSets, otherwise: FloatArray) -> FloatArray:
        rows = sets.rows(~np.eye(self.blocks, dtype=bool))
        return np.where(rows >= 0, sets.nll[rows], otherwise)

    def _importance(
        self, domain: str | None, order: IntArray, floor: BoolArray, ceiling: float
    ) -> FloatArray:
        """Increments along the joint order, all from the largest sample that has every prefix."""
        prefixes = measured_sets.prefixes(order, self.blocks)
        for sample in measured_sets.samples_of(self.header, "calib"):
            sets = measured_sets.of_samples(self.file, [sample], domain)
            rows = sets.rows(prefixes)
            if (rows >= 0).all():
                found = np.zeros(self.blocks)
                found[order] = np.diff(sets.nll[rows])
                found[floor] = 2 * max(ceiling, *found)
                return found
        raise InvalidTable(
            f"{self.name} lacks prefixes of the joint order on calibration text: measure the "
            "design `joint-order`"
        )


def _above_floor(order: IntArray, again: Sequence[int]) -> IntArray:
    """The blocks of `order` as `again` orders them; those that it lacks last, in their old order."""
    place = {block: rank for rank, block in enumerate(again)}
    return np.array(sorted(order.tolist(), key=lambda b: place.get(b, len(place))), dtype=np.int64)


def load_table(name: str | Path, sha256: str | None = None) -> QualityTable:
    """A quality table: what kept sets of a model cost, measured, with provenance.

    Args:
        name: of a table that came with rapgym (`rapgym tables list`), or the path of any.
        sha256: what the file must be, hexadecimal; not checked where None.

    Returns:
        A table: `floor` (blocks that every kept set holds, bool [N]), `ceiling()` (C, nats),
        `header` with its texts, orders and provenance, and `calibration()`, whose columns answer
        `nll` (nats a token above dense) of kept sets, bool [..., N].

    Raises:
        DataUnavailable: there is no such table.
        WrongChecksum: its sha256 is another.
        InvalidTable: it is damaged.

    Example:
        >>> table = rapgym.load_table("smollm2-135m")
        >>> table.blocks, int(table.floor.sum())
        (60, 28)
        >>> nll, measured = table.calibration().nll(table.floor)
    """
    return QualityTable.load(name, sha256)


def read_table(name: str | Path) -> "pandas.DataFrame":
    """The rows of a quality table as a pandas frame: one a kept set and sample of text.

    Args:
        name: of a table that came with rapgym, or the path of any.

    Returns:
        A frame in the file's order. Losses are differences from the dense model on the same tokens:

        - `kept`: the kept set's key, hexadecimal; block 0 is its most significant bit.
        - `attention_dropped`, `ffn_dropped`: how many blocks of each kind it lacks.
        - `sample`: the text it was measured on; `split`: "calib" or "test", what that text is for.
        - `design`: what it was first measured for.
        - `nll`: mean of the domains, nats a token; `nll_se`: its standard error.
        - `nll_p95`: 95th percentile of the sequences' mean differences, nats a token.
        - and of each domain, `books_...` for instance: `books_tokens`, tokens measured;
          `books_nll`, nats a token; `books_nll_se`, its standard error; `books_kl`, divergence from
          dense, nats a token, NaN where not measured; `books_top1`, share of tokens whose most
          probable next token is dense's, NaN likewise.

    Raises:
        DataUnavailable: there is no such table.
        InvalidTable: it is damaged.
        HeldOut: training asks: the rows of test text are among them.

    Example:
        >>> frame = rapgym.read_table("smollm2-135m")
        >>> dense = frame[(frame.attention_dropped == 0) & (frame.ffn_dropped == 0)]
        >>> sorted({*dense.split}), dense.nll.abs().max().item()
        (['calib', 'test'], 0.0)
    """
    import pandas

    heldout.check(heldout.COLUMNS)
    file = table_file.read(path_of(name))
    rows, domains = file.rows, file.header.domains
    split_of = {sample.name: sample.split for sample in file.header.samples}
    dropped = blocks.dropped_counts(rows.kept)
    columns: dict[str, Any] = {
        "kept": [blocks.key(kept) for kept in rows.kept],
        "attention_dropped": dropped[:, 0],
        "ffn_dropped": dropped[:, 1],
        "sample": rows.sample,
        "split": [split_of[sample] for sample in rows.sample],
        "design": rows.design,
        "nll": rows.nll.mean(axis=1),
        "nll_se": np.sqrt((rows.nll_se**2).sum(axis=1)) / len(domains),
        "nll_p95": rows.nll_p95,
    }
    for place, domain in enumerate(domains):
        for measure in table_file.PER_DOMAIN:
            columns[f"{domain}_{measure}"] = getattr(rows, measure)[:, place]
    return pandas.DataFrame(columns)


def path_of(name: str | Path) -> Path:
    """The file of a shipped table's name, or the path itself where it is one."""
    path = Path(name)
    if path.parent != Path() or path.name.endswith(table_file.SUFFIX):
        return path
    return places.TABLES / f"{name}{table_file.SUFFIX}"


def shipped() -> tuple[str, ...]:
    """Names of the tables that came with the package."""
    return tuple(
        sorted(
            path.name.removesuffix(table_file.SUFFIX)
            for path in places.TABLES.glob("*" + table_file.SUFFIX)
        )
    )
