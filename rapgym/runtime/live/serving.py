"""One row's batch served on a live model whose blocks may leave: packed prompts, ragged KV cache.

Memory is taken as the simulated world charges it: the slots of every request, prompt + reserve, are
there from the start in each kept attention layer. Prompts run one behind the other without padding,
some tokens at a time; then all requests answer in lockstep, one token each.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.files.closing import Closing
from rapgym.model.shapes import KVFormat
from rapgym.runtime.live.packed import Elastic, Rows, Stretch, next_tokens, stream
from rapgym.runtime.live.ragged import KVShape, RaggedCache
from rapgym.runtime.live.requests import Request

CHUNK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Spent:
    """Work done so far, and the seconds it took."""

    prefill_s: float = 0.0
    decode_s: float = 0.0
    prefill_tokens: int = 0
    decode_tokens: int = 0  # that ran through the model: an answer's first comes from its prompt
    decode_steps: int = 0


@dataclass(slots=True)
class _Answer:
    """What one request has been answered so far."""

    tokens: list[int] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)


class Batch(Closing):
    """Requests that are served together, a unit of work at a time.

    Between two units blocks may be dropped; restoring attention would need keys and values that
    were never computed, so nothing returns before the batch has ended.
    """

    def __init__(
        self,
        model: Elastic,
        requests: Sequence[Request],
        *,
        chunk_tokens: int = CHUNK_TOKENS,
        kv: KVFormat = "bf16",
    ) -> None:
        """Reserve the slots of all requests in each attention layer that is kept now.

        Args:
            chunk_tokens: of prompts that run at once, which bounds the memory of activations.
            kv: bf16 stands for the model's own dtype.

        Raises:
            OSError, RuntimeError: there is no memory for the slots; none is kept then.
        """
        if chunk_tokens < 1:
            raise InvalidSpec("a chunk of prefill holds at least one token")
        self.model, self.requests, self.chunk_tokens = model, tuple(requests), chunk_tokens
        weight = model.network.model.embed_tokens.weight
        self._device, self._room = weight.device, model.memory
        reserved = [request.tokens for request in self.requests]
        self._first = np.append(0, np.cumsum(reserved, dtype=np.int64))  # slot of each request
        self._answers = [_Answer() for _ in self.requests]
        self._pack()
        layers = np.flatnonzero(model.kept[0::2]).tolist() if reserved else []
        shape = _kv_shape(model.network.config, weight.dtype, kv)
        self._cache = RaggedCache(shape, sum(reserved), layers, self._room)
        self.spent = Spent()
        self._flight = ExitStack()
        self._flight.enter_context(model.sequences())

    def _pack(self) -> None:
        """All prompts one behind the other, and where each stands there."""
        lengths = np.array([len(request.prompt) for request in self.requests], dtype=np.int64)
        self._ends = np.cumsum(lengths)  # in the packed prompts
        self._owner = np.repeat(np.arange(len(lengths)), lengths)
        self._positions = np.arange(lengths.sum()) - np.repeat(self._ends - lengths, lengths)
        empty = np.zeros(0, dtype=np.int64)
        self._ids = np.concatenate([empty, *(request.prompt for request in self.requests)])

    @property
    def kv_bytes(self) -> int:
        """Reserved for keys and values now."""
        return self._cache.bytes

    @property
    def prefilled(self) -> bool:
        """Whether every prompt has been read."""
        return self.spent.prefill_tokens == len(self._ids)

    @property
    def done(self) -> bool:
        return self.prefilled and not self._open()

    @property
    def tokens(self) -> list[IntArray]:
        """Each request's answer so far."""
        return [np.array(answer.tokens, dtype=np.int64) for answer in self._answers]

    @property
    def nll(self) -> list[FloatArray]:
        """Nats of each token of these answers."""
        return [np.array(answer.nll, dtype=np.float64) for answer in self._answers]

    def _open(self) -> list[int]:
        """Requests whose answers are not complete."""
        return [
            index
            for index, (request, answer) in enumerate(
                zip(self.requests, self._answers, strict=True)
            )
            if len(answer.tokens) < request.output_tokens
        ]

    def advance(self) -> bool:
        """Do one unit of work: a chunk of prompts, or one token of every open answer.

        Returns:
            Whether there was work to do.
        """
        if self.done:
            return False
        self._room.synchronise()
        began_s = time.perf_counter()
        with torch.inference_mode():
            prefill = not self.prefilled
            count = self._prefill() if prefill else self._decode()
        self._room.synchronise()
        took_s, spent = time.perf_counter() - began_s, self.spent
        if prefill:
            self.spent = Spent(
                spent.prefill_s + took_s, spent.decode_s, spent.prefill_tokens + count,
                spent.decode_tokens, spent.decode_steps,
            )  # fmt: skip
        else:
            self.spent = Spent(
                spent.prefill_s, spent.decode_s + took_s, spent.prefill_tokens,
                spent.decode_tokens + count, spent.decode_steps + 1,
            )  # fmt: skip
        return True

    def run(self) -> Self:
        """Serve to the end."""
        while self.advance():
            pass
        return self

    def drop(self, kept: BoolArray) -> Any:
        """Drop blocks in mid-flight: first keys and values of their layers, then their weights.

        Args:
            kept: a subset of what is kept now, bool [N].

        Returns:
            What the model's `apply` says of it.

        Raises:
            InvalidSpec: a block would return, or no attention would stay; nothing was done.
        """
        returns = np.flatnonzero(kept & ~self.model.kept)
        if len(returns):
            raise InvalidSpec(
                f"blocks {returns.tolist()} cannot return while a batch is in flight: attention "
                "would miss the keys and values of tokens it did not see; end the batch first"
            )
        if not kept[0::2].any():
            raise InvalidSpec(
                "at least one attention block must stay: without any no token sees another"
            )
        self._cache.drop(np.flatnonzero(~kept[0::2]).tolist())
        return self.model.apply(kept)

    def close(self) -> None:
        """Give back keys and values, after which attention may return; answers stay."""
        self._cache.close()
        self._flight.close()

    def _prefill(self) -> int:
        """Run the next chunk of packed prompts; returns its tokens."""
        start = self.spent.prefill_tokens
        stop = min(start + self.chunk_tokens, len(self._ids))
        owner, positions = self._owner[start:stop], self._positions[start:stop]
        stretches, row = [], 0
        for request in np.unique(owner).tolist():
            rows = slice(row, row + int(np.count_nonzero(owner == request)))
            stretches.append(Stretch(rows, int(self._first[request]), int(positions[row])))
            row = rows.stop
        hidden = self._hidden(self._ids[start:stop], owner, positions, stretches)
        ended = [
            index
            for index in np.unique(owner).tolist()
            if self._ends[index] <= stop and self.requests[index].output_tokens
        ]
        self._answer(ended, hidden[[int(self._ends[index]) - 1 - start for index in ended]])
        return stop - start

    def _decode(self) -> int:
        """Run the last token of every open answer; returns how many."""
        active = self._open()
        ids = np.array([self._answers[index].tokens[-1] for index in active], dtype=np.int64)
        seen = [
            len(self.requests[index].prompt) + len(self._answers[index].tokens) - 1
            for index in active
        ]
        stretches = [
            Stretch(slice(row, row + 1), int(self._first[index]), seen[row])
            for row, index in enumerate(active)
        ]
        hidden = self._hidden(ids, np.array(active), np.array(seen), stretches)
        self._answer(active, hidden)
        return len(active)

    def _hidden(
        self, ids: IntArray, owner: IntArray, positions: IntArray, stretches: list[Stretch]
    ) -> torch.Tensor:
        """Residual stream behind the last block, [R, hidden]."""
        slots = self._first[owner] + positions
        at = [torch.from_numpy(part).to(self._device) for part in (ids, positions, slots)]
        return stream(self.model, Rows(at[0], at[1], at[2], stretches), self._cache)

    def _answer(self, requests: list[int], hidden: torch.Tensor) -> None:
        """Add the next token of these requests, each read from its row of the residual stream."""
        if not requests:
            return
        given = [-1] * len(requests)
        for row, index in enumerate(requests):
            output = self.requests[index].output
            if output is not None:
                given[row] = int(output[len(self._answers[index].tokens)])
        network = self.model.network
        wanted = torch.tensor(given, device=self._device)
        tokens, nll = next_tokens(network.lm_head, network.model.norm(hidden), wanted)
        for index, token, nats in zip(requests, tokens.tolist(), nll.tolist(), strict=True):
            self._answers[index].tokens.append(token)
            self._answers[index].nll.append(nats)


def _kv_shape(config: Any, dtype: torch.dtype, kv: KVFormat) -> KVShape:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KVShape(config.num_key_value_heads, width, dtype, kv)
