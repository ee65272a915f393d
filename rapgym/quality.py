"""Quality tables: kept set -> measured nats a token above dense, or a prediction flagged as one.

A `QualityTable` is read from its file; policies get its calibration columns, the scorer its test
columns, and neither can reach the other's numbers through what it was given (but that the sets of
the grid, and the mean of the test predictor, come from calibration text in both).
"""

from pathlib import Path
from typing import Any, Self

import numpy as np

from rapgym import measured_sets, predictor, table_file
from rapgym.errors import InvalidTable, WrongChecksum
from rapgym.measured_sets import MeasuredSets
from rapgym.quality_columns import QualityColumns
from rapgym.specs import BoolArray, FloatArray, IntArray
from rapgym.table_file import Header, TableFile

__all__ = ["QualityColumns", "QualityTable", "path_of", "shipped"]

TABLES = Path(__file__).parent / "tables"


class QualityTable:
    """One table: measured quality of kept sets of one model in one format, with provenance."""

    def __init__(self, name: str, file: TableFile) -> None:
        self.name, self.file = name, file
        self._views: dict[tuple[str, str | None], QualityColumns] = {}

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
        floor = np.ones(self.blocks, dtype=bool)
        floor[list(self.header.orders[0].joint)] = False
        return floor

    def ceiling(self, domain: str | None = None) -> float:
        """C, nats: a unigram model's nll less dense's on calibration text. DESIGN.md section 5."""
        judged = {orders.sample for orders in self.header.orders}
        calib = [s for s in self.header.samples if s.split == "calib"]
        if not calib:
            raise InvalidTable(f"{self.name} holds no calibration text")
        text = max(calib, key=lambda s: (s.name not in judged, sum(s.tokens), s.name))
        if domain is None:
            return float(np.mean(text.unigram_nll_pooled) - np.mean(text.dense_nll))
        d = self.header.domains.index(domain)
        return text.unigram_nll[d] - text.dense_nll[d]

    def calibration(self, domain: str | None = None) -> QualityColumns:
        """What policies, the shield and rewards may read; no number in it is from test text.

        Args:
            domain: None for the mean of all.

        Raises:
            InvalidTable: no such domain, or a design is missing; the message names it.
        """
        return self._view("calib", domain)

    def test(self, domain: str | None = None) -> QualityColumns:
        """What the scorer reads, and it alone.

        Raises:
            InvalidTable: as `calibration`, or no set was measured on test text.
        """
        return self._view("test", domain)

    def _view(self, split: str, domain: str | None) -> QualityColumns:
        if (split, domain) not in self._views:
            calib = None if split == "calib" else self.calibration(domain)
            self._views[split, domain] = self._columns(split, domain, calib)
        return self._views[split, domain]

    def _columns(
        self, split: str, domain: str | None, calib: QualityColumns | None
    ) -> QualityColumns:
        sets, floor = measured_sets.of_split(self.file, split, domain), self.floor
        orders = self.header.orders[0]
        attention, ffn, joint = (
            np.array(order, dtype=np.int64)
            for order in (orders.attention, orders.ffn, orders.joint)
        )
        ceiling = self.ceiling(domain)
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
            ceiling=ceiling,
            predictor_settings=predictor.settings_of(self._fitted(split).get("settings")),
            mean=calib,
        )

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


def path_of(name: str | Path) -> Path:
    """The file of a shipped table's name, or the path itself where it is one."""
    path = Path(name)
    if path.parent != Path() or path.name.endswith(table_file.SUFFIX):
        return path
    return TABLES / f"{name}{table_file.SUFFIX}"


def shipped() -> tuple[str, ...]:
    """Names of the tables that came with the package."""
    return tuple(
        sorted(
            path.name.removesuffix(table_file.SUFFIX)
            for path in TABLES.glob("*" + table_file.SUFFIX)
        )
    )
