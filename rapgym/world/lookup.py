"""What columns say of kept sets, by a compiled look-up: rows and remembered predictions in one table.

The same as `QualityColumns.nll`, whatever the number of rows: an open hash table over the packed bits.
A set that has no row is entered with NaN, and its prediction is written there as soon as it is known.
"""

import numpy as np
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, IntArray
from rapgym.quality import quick
from rapgym.quality.columns import MEMO_SETS, QualityColumns
from rapgym.world.kernel import WORD, Entries, move, places_of
from rapgym.world.once import once_for_columns


class Lookup:
    """The table of one split's columns; it grows as sets are asked for, and in the end starts anew."""

    def __init__(self, columns: QualityColumns) -> None:
        self.blocks = len(columns.floor)
        self.words = -(-self.blocks // WORD)
        # Rows below the floor are never asked for; they do no harm.
        self._rows, self._nll = columns.sets.kept, columns.sets.nll
        self._places = 1 << int(np.ceil(np.log2(4 * len(self._rows) + 64)))
        self.entries = self._begun(self._places)
        self._parts: quick.Parts | None = None  # of the fit, once something was predicted

    def make_room(self, sets: int) -> None:
        """Make room for so many sets more.

        A new table, so that who still reads the last one is not disturbed. With more than
        `MEMO_SETS` predictions it starts anew from the rows.
        """
        old = self.entries
        keeps = int(old.used[0]) - len(self._rows) <= MEMO_SETS
        held = int(old.used[0]) if keeps else len(self._rows)
        places = self._places
        while places < 2 * (held + sets + 1):
            places *= 2
        new = self._begun(places)
        if keeps:
            move(old, new, np.empty(self.words, np.uint64))
        self.entries = new

    def predict(self, columns: QualityColumns, entries: Entries, places: IntArray) -> None:
        """Write predictions at those of these places of a table that have none, in one batch.

        Args:
            columns: those that this look-up was made of; it does not hold them.
        """
        new = np.unique(places)
        new = new[np.isnan(entries.nll[new])]
        kept, fit = kept_of(entries.keys[new], self.blocks), columns.fitted
        if fit.mean is not None:
            entries.nll[new] = columns.predicted_nll(kept)
            return
        if self._parts is None:
            self._parts = quick.parts_of(fit)
        entries.nll[new] = columns.answered(kept, quick.nll(self._parts, kept))

    def predict_all(self, columns: QualityColumns, entries: Entries) -> None:
        """The same for every set of a table that waits."""
        self.predict(columns, entries, np.flatnonzero(entries.taken & np.isnan(entries.nll)))

    def places(self, kept: BoolArray, entries: Entries) -> IntArray:
        """The places of kept sets, bool [K, N], in a table that has room: int64 [K]."""
        found = np.empty(len(kept), dtype=np.int64)
        whole = places_of(
            entries, np.ascontiguousarray(kept), np.empty(self.words, np.uint64), found
        )
        assert whole, "room was made"
        return found

    def _begun(self, places: int) -> Entries:
        """A table of the rows alone."""
        entries = Entries(
            np.zeros((places, self.words), dtype=np.uint64),
            np.zeros(places, dtype=bool),
            np.full(places, np.nan),
            np.zeros(places, dtype=bool),
            np.zeros(1, dtype=np.int64),
        )
        found = self.places(self._rows, entries)
        entries.nll[found], entries.measured[found] = self._nll, True
        return entries


def kept_of(keys: NDArray[np.uint64], blocks: int) -> BoolArray:
    """The kept sets of keys: uint64 [K, words] -> bool [K, blocks]."""
    parts = []
    for word in range(keys.shape[1]):
        width = min(WORD, blocks - word * WORD)
        shifts = np.arange(width, dtype=np.uint64)
        parts.append((keys[:, word, None] >> shifts) & np.uint64(1))
    kept: BoolArray = np.concatenate(parts, axis=1).astype(bool)
    return kept


@once_for_columns
def lookup_of(columns: QualityColumns) -> Lookup:
    """The look-up of these columns, made once; it goes when they go."""
    return Lookup(columns)
