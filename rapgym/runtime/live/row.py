"""A row's batch on a live model: served share by share, every token scored against dense."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.runtime.live.elastic import ElasticModel, Moved
from rapgym.runtime.live.packed import Elastic, Stretch, next_tokens
from rapgym.runtime.live.requests import Request
from rapgym.runtime.live.serving import CHUNK_TOKENS, Batch, Spent

SCORED_ROWS = 64  # of prompts whose logits exist at once: scoring must not raise the peak


class RequestSource(Protocol):
    """Where a row's requests come from: `requests.RowRequests`."""

    def at(
        self, row: int, prompt_tokens: int | None = None, reserved_tokens: int | None = None, /
    ) -> tuple[Request, ...]: ...


class ScoredBatch(Batch):
    """A batch that also scores how prompts go on: answers alone are too few tokens to judge by.

    `prompt_nll` holds nats of every prompt token but each prompt's first, in the order of the packed
    prompts, NaN where not read yet; `score_s` the seconds of scoring, which no server would spend.
    """

    def __init__(self, model: Elastic, requests: Sequence[Request], **options: Any) -> None:
        super().__init__(model, requests, **options)
        self.prompt_nll: FloatArray = np.full(len(self._ids), np.nan)
        self.score_s = 0.0

    @property
    def prompt_positions(self) -> IntArray:
        """Place of each token of the packed prompts in its own prompt."""
        return self._positions

    def _hidden(
        self, ids: IntArray, owner: IntArray, positions: IntArray, stretches: list[Stretch]
    ) -> torch.Tensor:
        hidden = super()._hidden(ids, owner, positions, stretches)
        if not self.prefilled:
            self._room.synchronise()
            began_s = time.perf_counter()
            self._score(hidden)
            self.score_s += time.perf_counter() - began_s
        return hidden

    def _score(self, hidden: torch.Tensor) -> None:
        """Nats of the tokens that follow these rows of the packed prompts in their own prompt."""
        start = self.spent.prefill_tokens
        after = np.arange(start + 1, min(start + len(hidden), len(self._ids) - 1) + 1)
        after = after[self._owner[after] == self._owner[after - 1]]
        network = self.model.network
        for part in np.array_split(after, max(1, -(-len(after) // SCORED_ROWS))):
            rows = torch.from_numpy(part - 1 - start).to(self._device)
            given = torch.from_numpy(self._ids[part]).to(self._device)
            _, nll = next_tokens(network.lm_head, network.model.norm(hidden[rows]), given)
            self.prompt_nll[part] = nll.double().cpu().numpy()


@dataclass(frozen=True, slots=True, eq=False)
class Nats:
    """Tokens of true text that a model predicted, K of them."""

    above_dense: FloatArray  # nats more than dense lost on the same token, [K]
    position: IntArray  # in its request, prompt and answer counted together, [K]
    answer: BoolArray  # whether it is of an answer, [K]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Nats of every token of a row's text that was predicted."""

    prompt: FloatArray  # NaN at each prompt's first token, and where not read
    answers: Sequence[FloatArray]  # as far as produced


def scored(batch: ScoredBatch) -> Scored:
    """What a batch has said of its text so far."""
    return Scored(batch.prompt_nll.copy(), batch.nll)


class Run:
    """One row being served."""

    def __init__(self, batch: ScoredBatch, dense: Scored, ends: ExitStack) -> None:
        """Args:
        ends: what to leave once the row has ended.
        """
        self.batch, self.dense, self._ends = batch, dense, ends
        self._share = 0.0
        outputs = sum(max(request.output_tokens - 1, 0) for request in batch.requests)
        self._total = sum(len(request.prompt) for request in batch.requests) + outputs
        self._read, self._answered = 0, [0] * len(batch.requests)

    @property
    def spent(self) -> Spent:
        """Work so far; scoring's seconds are taken off those of prefill."""
        spent, scoring_s = self.batch.spent, self.batch.score_s
        return Spent(
            spent.prefill_s - scoring_s, spent.decode_s, spent.prefill_tokens,
            spent.decode_tokens, spent.decode_steps,
        )  # fmt: skip

    def serve(self, share: float) -> Nats:
        """Go on by this share of the row's work, by tokens that run through the model; says what
        it predicted meanwhile.
        """
        self._share += share
        target, batch = self._share * self._total, self.batch
        # Chunks keep their size, as libraries cache what they compile for each: to the nearest one.
        while target - self._done > min(batch.chunk_tokens, self._total - self._done) / 2:
            if not batch.advance():
                break
        return self._new_nats()

    @property
    def _done(self) -> int:
        return self.batch.spent.prefill_tokens + self.batch.spent.decode_tokens

    def _new_nats(self) -> Nats:
        batch, dense = self.batch, self.dense
        # The last row read has scored the token behind it.
        stop = min(batch.spent.prefill_tokens + 1, len(batch.prompt_nll))
        new = slice(self._read, stop if batch.spent.prefill_tokens else 0)
        self._read = max(self._read, new.stop)
        prompt = batch.prompt_nll[new] - dense.prompt[new]
        known = np.isfinite(prompt)
        above, positions = [prompt[known]], [batch.prompt_positions[new][known]]
        for index, nll in enumerate(batch.nll):
            done = self._answered[index]
            above.append(nll[done:] - dense.answers[index][done : len(nll)])
            positions.append(len(batch.requests[index].prompt) + np.arange(done, len(nll)))
            self._answered[index] = len(nll)
        answer = np.repeat([False, True], [len(above[0]), sum(map(len, above[1:]))])
        return Nats(np.concatenate(above), np.concatenate(positions), answer)

    def drop(self, kept: BoolArray) -> float:
        """Drop blocks in mid-flight, keys and values first; returns seconds, of weights alone."""
        moved: Moved = self.batch.drop(kept)
        return moved.drop_s

    def close(self) -> None:
        """End the batch: its keys and values are given back."""
        self.batch.close()
        self._ends.close()


class LiveServer:
    """Serves rows of one split on a model whose blocks leave and return."""

    def __init__(
        self, model: ElasticModel, requests: RequestSource, *, chunk_tokens: int = CHUNK_TOKENS
    ) -> None:
        self.model, self.requests, self.chunk_tokens = model, requests, chunk_tokens
        self._dense: dict[tuple[int, int, int], Scored] = {}
        self._asked: BoolArray = model.kept.copy()

    @property
    def kept(self) -> BoolArray:
        """Blocks in memory, bool [N]."""
        model = self.model.kept
        return model if self._asked[0::2].any() else self._asked.copy()

    def move(self, kept: BoolArray) -> Moved:
        """Bring memory to this kept set between rows.

        A transformers model has attention: where the world evicts even the floor's, the first
        attention block stays.
        """
        lawful = kept.copy()
        lawful[0] |= not kept[0::2].any()
        moved, self._asked = self.model.apply(lawful), kept.copy()
        return moved

    def referred(self, row: int, prompt_tokens: int, reserved_tokens: int) -> bool:
        """Whether `refer` has been asked of this row."""
        return (row, prompt_tokens, reserved_tokens) in self._dense

    def refer(self, row: int, prompt_tokens: int, reserved_tokens: int) -> Scored:
        """What the dense model says of a row's text; measured once, with every block in memory."""
        place = (row, prompt_tokens, reserved_tokens)
        if place not in self._dense:
            self.move(np.ones(self.model.blocks, dtype=bool))
            with self._batch(*place) as batch:
                batch.run()
                self._dense[place] = scored(batch)
        return self._dense[place]

    def begin(self, row: int, prompt_tokens: int, reserved_tokens: int) -> Run:
        """Reserve the row's keys and values and stand before its first token."""
        dense = self.refer(row, prompt_tokens, reserved_tokens)
        with ExitStack() as ends:
            batch = self._batch(row, prompt_tokens, reserved_tokens)
            ends.enter_context(self.model.sequences())
            return Run(batch, dense, ends.pop_all())

    def _batch(self, row: int, prompt_tokens: int, reserved_tokens: int) -> ScoredBatch:
        requests = self.requests.at(row, prompt_tokens, reserved_tokens)
        return ScoredBatch(self.model, requests, chunk_tokens=self.chunk_tokens)
