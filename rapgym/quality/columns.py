"""What a quality table says on one split's text: the view that policies, or the scorer, are given."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, freeze
from rapgym.errors import InvalidTable, UnmeasuredSet
from rapgym.model import blocks
from rapgym.quality import increments, predictor
from rapgym.quality.increments import Increments
from rapgym.quality.sets import MeasuredSets

MEMO_SETS = 1 << 18  # predictions remembered; then it starts anew


@dataclass(frozen=True, eq=False)
class QualityColumns:
    """What a table says of quality on one split's text, for one domain or the mean of all.

    All nll are differences from the model that is dense in the table's format, nats a token, to which
    `above` adds what that format costs. A is how many attention blocks may be dropped, F how many
    FFN blocks.
    """

    name: str  # of the table
    split: str  # "calib" or "test"
    domain: str | None  # None: the mean of the domains
    sets: MeasuredSets  # the rows, one a kept set
    floor: BoolArray  # blocks that every kept set holds, [N]
    order: IntArray  # joint greedy order of the blocks above the floor, cheapest first, [A + F]
    attention_order: IntArray  # greedy order among attention blocks alone, [A]
    ffn_order: IntArray  # [F]
    at_counts: FloatArray  # M: no set that drops (a, f) blocks is answered better, [A + 1, F + 1]
    grid_kept: (
        BoolArray  # best set found by calibration columns that drops (a, f), [A + 1, F + 1, N]
    )
    grid_measured: BoolArray  # whether that set has a row in these columns, [A + 1, F + 1]
    single: FloatArray  # nll of every single removal, [N]
    importance: FloatArray  # increase of nll on calibration text when the order drops it, [N]
    ceiling: float  # C: what a token that is not served costs, from calibration text
    predictor_settings: predictor.Settings
    # ShortGPT's block influence of each layer, from calibration text, [L]; None in older tables.
    block_influence: FloatArray | None = None
    mean: "QualityColumns | None" = None  # where the predictor starts from; test columns have one
    added: float = 0.0  # nats a token in every answer, beside the difference from dense
    _memo: dict[bytes, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        freeze(self)  # a policy that sorts its order in place must not change everybody's

    def nll(self, kept: BoolArray) -> tuple[FloatArray, BoolArray]:
        """Nats a token of kept sets, bool [..., N]: above dense, `added` included.

        Returns:
            float64 [...], measured where there is a row, else predicted; and bool [...], whether
            it was measured.

        Raises:
            InvalidTable: a kept set lacks a block of the floor, or is of another model.
        """
        kept = self._checked(kept)
        if not kept[..., self.floor].all():
            lacking = np.flatnonzero(self.floor & ~kept.reshape(-1, kept.shape[-1]).all(axis=0))
            raise InvalidTable(
                f"{self.name} vouches for no set without {blocks.name(int(lacking[0]))}: it is "
                "part of the floor; put `columns.floor` into the set"
            )
        rows = self.sets.rows(kept)
        found, measured = self.sets.nll[rows], rows >= 0
        if not measured.all():
            found = np.where(measured, found, 0.0)
            found[~measured] = self._remembered(kept[~measured])
        return found, measured

    def predicted_nll(self, kept: BoolArray) -> FloatArray:
        """What the predictor says, also of sets that have a row; never better than M(counts).

        Raises:
            InvalidTable: as `nll` does.
        """
        kept = self._checked(kept)
        return self.answered(kept, self.fitted.nll(kept))

    def answered(self, kept: BoolArray, predicted: FloatArray) -> FloatArray:
        """What `predicted_nll` makes of the predictor's own answers: bool [..., N], [...] -> [...]."""
        counts = blocks.dropped_counts(kept | self.floor)
        # Rounded as rows are, so that no last bit depends on how many sets are asked for at once.
        answer = np.round(predicted, 6) + self.added
        return np.maximum(answer, self.at_counts[counts[..., 0], counts[..., 1]])

    def above(self, added: float, ceiling: float) -> "QualityColumns":
        """The same with `added` nats in every answer: above another model than the table's dense one.

        Args:
            ceiling: C, nats above that other model.
        """
        if added == 0.0 and ceiling == self.ceiling:
            return self
        return replace(
            self,
            sets=replace(self.sets, nll=self.sets.nll + added),
            at_counts=self.at_counts + added,
            single=self.single + added,
            ceiling=ceiling,
            added=self.added + added,
            _memo={},
        )

    def nll_se(self, kept: BoolArray) -> FloatArray:
        """Standard error of measured nats a token; bool [..., N] -> float64 [...].

        Raises:
            UnmeasuredSet: a kept set has no row; `nll` answers for any set above the floor.
        """
        return self.sets.nll_se[self._rows(kept)]

    @property
    def grid_nll(self) -> FloatArray:
        """`nll` of the grid's sets, [A + 1, F + 1]. At least M(counts), which need not be theirs."""
        return self.nll(self.grid_kept)[0]

    def _checked(self, kept: BoolArray) -> BoolArray:
        kept = np.asarray(kept, dtype=bool)
        if kept.shape[-1:] != self.floor.shape:
            raise InvalidTable(
                f"{self.name} is of {len(self.floor)} blocks; a kept set is bool [..., "
                f"{len(self.floor)}], not {kept.shape}"
            )
        return kept

    def _rows(self, kept: BoolArray) -> IntArray:
        kept = self._checked(kept)
        rows = self.sets.rows(kept)
        if (rows < 0).any():
            key = blocks.key(kept.reshape(-1, kept.shape[-1])[int(np.argmin(rows))])
            raise UnmeasuredSet(
                f"{self.name} has no measurement of {key} on {self.split} text ({len(self.sets)} "
                f"known); add it with: rapgym measure {self.name} --kept {key}"
            )
        return rows

    def _remembered(self, kept: BoolArray) -> FloatArray:
        names = blocks.raw_keys(kept)
        if len(self._memo) > MEMO_SETS:
            self._memo.clear()
        new = {name: i for i, name in enumerate(names) if name not in self._memo}
        if new:
            answers = self.predicted_nll(kept[[*new.values()]])
            self._memo.update(zip(new, answers.tolist(), strict=True))
        return np.array([self._memo[name] for name in names])

    @property
    def known_nll(self) -> predictor.Mean | None:
        """Where the predictor starts from: what calibration columns say, for test columns."""
        mean = self.mean
        return None if mean is None else lambda kept: mean.nll(kept)[0]

    def fitted_sets(self) -> tuple[predictor.Sets, tuple[str, ...]]:
        """The rows that the predictor is fitted to, those above the floor, and their designs."""
        sets, above = self.sets, np.flatnonzero(self.sets.kept[:, self.floor].all(axis=1))
        texts = sorted(
            {name for name, own in zip(sets.sample, sets.judged, strict=True) if not own}
        )
        text = np.where(
            sets.judged, 0, [1 + texts.index(s) if s in texts else 0 for s in sets.sample]
        )
        whole = predictor.Sets(sets.kept, sets.nll - self.added, sets.nll_se, text)
        return whole.part(above), tuple(sets.design[row] for row in above)

    @cached_property
    def increments(self) -> Increments:
        """What each next block would cost, whatever is gone: fitted once, to all rows."""
        return increments.of_sets(self.fitted_sets()[0])

    @cached_property
    def fitted(self) -> predictor.Predictor:
        """What answers for sets without a row: fitted when it is first asked."""
        return predictor.fit(self.fitted_sets()[0], self.predictor_settings, self.known_nll)
