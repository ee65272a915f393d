"""What decisions cost over many rows, in B lanes: rows are served and forgotten. Importing this loads numba."""

from collections.abc import Callable

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.world import kernel, tally_kernel
from rapgym.world.kernel import Lanes
from rapgym.world.lookup import lookup_of
from rapgym.world.records import World
from rapgym.world.shield import Reason
from rapgym.world.tally_kernel import Paid, Sets
from rapgym.world.twin import falls_of, fixed, scratch_of, twin_of


class Tally:
    """B lanes, every block in memory at first, that propose one of M sets for each row."""

    def __init__(
        self,
        world: World,
        sets: BoolArray,
        total: FloatArray,
        *,
        refuses_misfit: bool = False,
        rows: int = 0,
    ) -> None:
        """Begin in dense lanes.

        Args:
            sets: bool [M, N].
            total: cost times output tokens of what each lane serves is added here, [B].
            refuses_misfit: as `simulator.step` takes it, of all lanes.
            rows: of which `proposed` remembers what the first lane did.
        """
        twin, n, lanes = twin_of(world), world.blocks, len(total)
        self.world, self._lookup = world, lookup_of(world.quality)
        self.facts, self._scratch = twin.facts, scratch_of(n)
        self.sets = self._priced(sets | world.floor)
        every = np.ones((lanes, n), dtype=bool)
        self.paid = Paid(
            total, every, np.full(lanes, tally_kernel.NONE), np.zeros(lanes),
            np.zeros(lanes, dtype=np.int64), np.zeros(lanes, dtype=bool), every.copy(),
            np.zeros(1, dtype=np.int64), np.zeros(rows, dtype=np.int64),
            np.zeros((rows, n), dtype=bool),
        )  # fmt: skip
        self._one = _one_lane(n, strict=refuses_misfit)
        self._falls = falls_of(min(world.window_s, len(world.quality.order) + 1), n)

    def _priced(self, kept: BoolArray) -> Sets:
        self._lookup.make_room(len(kept))
        entries = self._lookup.entries
        places = self._lookup.places(kept, entries)
        self._lookup.predict(self.world.quality, entries, places)
        loss = np.minimum(entries.nll[places], self.world.ceiling)
        attention, ffn = (kept[:, kind::2].sum(axis=1).astype(np.int64) for kind in (0, 1))
        return Sets(fixed(kept), fixed(attention), fixed(ffn), fixed(loss))

    def serve(self, rows: IntArray, limit_rows: IntArray, chosen: IntArray) -> None:
        """Serve rows in turn.

        Args:
            rows, limit_rows: [R]; chosen: which set each lane proposes, [R, B].
        """
        self.drive(tally_kernel.serve, rows, limit_rows, np.ascontiguousarray(chosen))

    @property
    def proposed(self) -> tuple[BoolArray, BoolArray]:
        """Of each row that is remembered: what the first lane proposed, and had in memory, [T, N] each."""
        chosen, before = self.paid.chosen, self.paid.before
        own = before | self.world.floor
        return np.where((chosen == tally_kernel.NONE)[:, None], own, self.sets.kept[chosen]), before

    def drive(self, code: Callable[..., int], *given: object) -> None:
        """Call compiled code that serves rows with `tally_kernel.serve_row` until all are served.

        Where a set waits for its prediction, or there is no room for one, it is called again.

        Args:
            code: takes what `serve_row` does up to `paid`, then `given`, then how many rows are done.
        """
        done, lookup = np.zeros(1, dtype=np.int64), self._lookup
        while True:
            entries = lookup.entries
            found = code(
                self.facts, self._one, self._falls, entries, self._scratch, self.sets, self.paid,
                *given, done,
            )  # fmt: skip
            if found == kernel.DONE:
                return
            if found == kernel.UNKNOWN:
                lookup.predict_all(self.world.quality, entries)
            elif found == kernel.NO_ENTRY:
                lookup.make_room(1 + len(self._falls.second))
            else:
                raise IndexError("a lane stands outside the rows of its world")


def _one_lane(blocks: int, *, strict: bool) -> Lanes:
    sets, places = np.ones((4, 1, blocks), dtype=bool), np.zeros((5, 1), dtype=np.int64)
    flags = np.zeros((2, 1), dtype=bool)
    return Lanes(
        places[0], places[1], np.ones(1), sets[0], sets[1],
        np.full(1, Reason.POLICY, dtype=np.int64), np.full(1, strict),
        next_row=places[2], next_limit_row=places[3], kept=sets[2], kept_end=sets[3],
        refused=flags[0], measured=flags[1],
        whole=np.empty((kernel.WHOLE, 1), dtype=np.int64),
        measures=np.empty((kernel.MEASURES, 1)), place=places[4],
    )  # fmt: skip
