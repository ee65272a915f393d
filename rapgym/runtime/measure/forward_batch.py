"""Several kept sets in one forward pass: the tree of their prefixes, a level at a time.

An accelerator is busy only where a block works on many tokens at once. Kept sets that agree up to a
block share one stream before it, so the batch holds a stream for each distinct prefix and grows as
the sets part; each block runs once over the streams of all sets that keep it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rapgym.arrays import BoolArray, IntArray
from rapgym.runtime.measure.forward import PrefixForward

# Tokens that a block works on at once: on a CPU what stays in its cache, elsewhere what fits beside
# the weights.
CPU_TOKENS, DEVICE_TOKENS = 2048, 1 << 17
MOST_SETS = 64  # kept sets that run together on an accelerator
STREAM_BYTES = 2 << 30  # of all their residual streams


def sets_at_once(network: Any, sequences: int, length: int) -> int:
    """How many kept sets to run together: one on a CPU, where more gain nothing."""
    if network.device.type == "cpu":
        return 1
    each = sequences * length * network.config.hidden_size * network.dtype.itemsize
    return max(1, min(MOST_SETS, STREAM_BYTES // each))


class BatchForward:
    """Hidden states of one batch of token sequences under several kept sets at once.

    What a batch of kept sets shares with the batch before is computed once: `PrefixForward`
    remembers it.
    """

    def __init__(
        self, network: Any, tokens: torch.Tensor, tokens_at_once: int | None = None
    ) -> None:
        """Embed the tokens, int64 [sequences, length]; `tokens_at_once` as the device suits."""
        self._shared = PrefixForward(network, tokens)
        if tokens_at_once is None:
            tokens_at_once = CPU_TOKENS if tokens.device.type == "cpu" else DEVICE_TOKENS
        self._rows = max(1, tokens_at_once // tokens.numel())  # streams that a block takes at once

    def normed(self, sets: Sequence[BoolArray]) -> tuple[torch.Tensor, IntArray]:
        """What the head reads under each of K kept sets, bool [N], no two alike.

        Returns:
            [K, sequences, length, hidden]; and how many attention and FFN blocks were computed for
            each set, int64 [K, 2], what several sets share being counted for the first of them.
        """
        before = np.array(self._shared.ran)
        if len(sets) == 1:
            normed = self._shared.normed(sets[0])[None]
            return normed, (np.array(self._shared.ran) - before)[None]
        kept = np.stack(sets)
        agreed = int(np.logical_and.accumulate((kept == kept[0]).all(axis=0)).sum())
        streams = self._shared.streams(kept[0, :agreed])[-1][None]
        ran = np.zeros((len(sets), 2), dtype=np.int64)
        ran[0] = np.array(self._shared.ran) - before
        place = np.zeros(len(sets), dtype=np.int64)  # which stream is each set's
        for block in range(agreed, kept.shape[1]):
            streams, place, first = self._past(block, streams, place, kept[:, block])
            ran[first, block % 2] += 1
        normed = self._shared.network.model.norm(streams)
        return normed[torch.from_numpy(place).to(normed.device)], ran

    def _past(
        self, block: int, streams: torch.Tensor, place: IntArray, keeps: BoolArray
    ) -> tuple[torch.Tensor, IntArray, IntArray]:
        """The distinct streams behind a block, which of them is each set's, and who paid.

        The last names one set for each stream on which the block ran.
        """
        idle, idle_place = np.unique(place[~keeps], return_inverse=True)
        busy, first, busy_place = np.unique(place[keeps], return_index=True, return_inverse=True)
        behind = np.empty_like(place)
        behind[~keeps], behind[keeps] = idle_place, len(idle) + busy_place
        parts = [_chosen(streams, idle)] if idle.size else []
        if busy.size:
            entering = _chosen(streams, busy)
            added = [self._shared.block(block, rows.flatten(0, 1)).view_as(rows)
                     for rows in entering.split(self._rows)]  # fmt: skip
            parts.append(entering + torch.cat(added))
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out, behind, np.flatnonzero(keeps)[first]


def _chosen(streams: torch.Tensor, rows: IntArray) -> torch.Tensor:
    if len(rows) == len(streams):  # all of them, in order
        return streams
    return streams[torch.from_numpy(rows).to(streams.device)]
