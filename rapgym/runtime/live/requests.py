"""The requests of a row as a live model gets them: real lengths, real text, sums as the world charges.

Lengths are those of the trace's single requests, brought to the measured model's tokens and
apportioned so that prompts and reserves add up to the world's row to the token.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from rapgym.arrays import IntArray
from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.quality import texts
from rapgym.runtime.samples import token_ids
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario, Split
from rapgym.workload import series


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One prompt, and what is to follow it."""

    prompt: IntArray  # token ids, at least one
    reserve: int  # output tokens for which memory is set aside
    # Token ids fed as the answer whatever the model would say; None: it answers greedily, as long as
    # the reserve is.
    output: IntArray | None = None

    def __post_init__(self) -> None:
        if not len(self.prompt):
            raise InvalidSpec("a request needs a prompt of at least one token")
        if self.reserve < self.output_tokens:
            raise InvalidSpec(
                f"{self.output_tokens} output tokens exceed a reserve of {self.reserve}"
            )

    @property
    def output_tokens(self) -> int:
        return self.reserve if self.output is None else len(self.output)

    @property
    def tokens(self) -> int:
        """Slots that are reserved for it in each kept attention layer."""
        return len(self.prompt) + self.reserve


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Tokens of a row's requests in order of arrival, in the measured model's tokens, [K] each."""

    prompt: IntArray  # at least 1
    reserve: IntArray
    output: IntArray  # realised, at most the reserve


def apportion(
    shares: IntArray, total: int, least: int = 0, most: IntArray | None = None
) -> IntArray:
    """Whole numbers that add up to `total`, as near to proportional to `shares` as they can be.

    Largest remainder (of equal ones the first); then what lies outside `least` and `most` is moved
    to or from the numbers that are furthest off their share.

    Args:
        shares: int64 [K], >= 0; where all are 0 they count the same.
        most: of each, int64 [K].

    Raises:
        InvalidSpec: no such numbers exist.
    """
    count = len(shares)
    if total < least * count or (most is not None and total > most.sum()) or (total and not count):
        raise InvalidSpec(
            f"{total} tokens cannot be shared out among {count} requests that hold at least {least} "
            "each; a larger length_share gives more"
        )
    if not count:
        return np.zeros(0, dtype=np.int64)
    weights = shares if shares.any() else np.ones(count, dtype=np.int64)
    found, rest = np.divmod(weights * total, weights.sum())
    found[np.argsort(-rest, kind="stable")[: total - int(found.sum())]] += 1
    found = np.clip(found, least, most)
    share = weights * (total / weights.sum())
    while over := int(found.sum()) - total:
        step = -1 if over > 0 else 1
        may = found > least if over > 0 else found < (total if most is None else most)
        found[np.argmax(np.where(may, (share - found) * step, -np.inf))] += step
    return found


def disjoint_starts(lengths: IntArray, size: int, rng: np.random.Generator) -> IntArray:
    """Where stretches of these lengths begin in a text of `size` tokens, none over another.

    Their order and the gaps between them are drawn.

    Raises:
        InvalidSpec: together they are longer than the text.
    """
    spare = size - int(lengths.sum())
    if spare < 0:
        raise InvalidSpec(
            f"requests of {lengths.sum()} tokens need more text than the {size} tokens there are; "
            "a smaller length_share makes them shorter"
        )
    order = rng.permutation(len(lengths))
    gaps = np.sort(rng.integers(0, spare + 1, len(lengths)))  # before each stretch, in all
    starts = np.empty(len(lengths), dtype=np.int64)
    starts[order] = gaps + np.append(0, np.cumsum(lengths[order])[:-1])
    return starts


class RowRequests:
    """The requests of any row of one scenario's split, with text behind them."""

    def __init__(
        self, story: Scenario, split: Split, tokenizer: object, text: texts.Split | None = None
    ) -> None:
        """Read and tokenise the scenario's text.

        Args:
            text: from which prompts are cut; test text on the test split and calibration text on
                all others unless stated, as whoever learns on those may not see test text.

        Raises:
            DataUnavailable, WrongChecksum: the text is not there, or not what it should be.
        """
        self.story, self.split = story, split
        whole = worlds.workload(story)
        self._numbers = series.split_rows(len(whole), split, story.splits)  # in the whole series
        self._part = whole.part(self._numbers)
        self._rows = worlds.rows(story, split)
        domains = (story.domain,) if story.domain else texts.DOMAINS
        chosen: texts.Split = text or ("test" if split == "test" else "calib")
        self._texts = [token_ids(tokenizer, domain, chosen) for domain in domains]

    def __len__(self) -> int:
        return len(self._rows)

    def lengths(
        self, row: int, prompt_tokens: int | None = None, reserved_tokens: int | None = None
    ) -> Lengths:
        """How long the requests of a row are.

        Args:
            prompt_tokens, reserved_tokens: what prompts and reserves add up to; the world's rows
                say unless stated, as for a lane whose demand is scaled.

        Raises:
            InvalidTrace: the series keeps no single requests of this row.
            InvalidSpec: fewer prompt tokens than requests.
        """
        one = self._part.part(np.array([row]))
        if one.requests[0] == series.NOT_KEPT:
            kept = np.count_nonzero(self._part.requests != series.NOT_KEPT)
            raise InvalidTrace(
                f"{self.story.name} keeps single requests of {kept} of {len(self)} rows of "
                f"{self.split}, not of row {row}: choose another row or split"
            )
        single, batch = one.single_requests(), int(one.batch[0])
        prompts = int(self._rows.prompt_tokens[row]) if prompt_tokens is None else prompt_tokens
        total = int(self._rows.reserved_tokens[row]) if reserved_tokens is None else reserved_tokens
        reserve = apportion(np.ones(batch, dtype=np.int64), total)
        # Outputs shrink as their reserve does, whatever scales it.
        realised = int(single.output_tokens.sum())
        outputs = round(realised * total / max(batch * one.reserve_tokens, 1))
        outputs = min(max(outputs, int(realised > 0)), total)
        return Lengths(
            apportion(single.prompt_tokens, prompts, least=1),
            reserve,
            apportion(single.output_tokens, outputs, most=reserve),
        )

    def at(
        self, row: int, prompt_tokens: int | None = None, reserved_tokens: int | None = None
    ) -> tuple[Request, ...]:
        """The requests of a row in order of arrival; arguments and errors as those of `lengths`.

        Prompt and answer are one stretch of text, disjoint from those of the row's other requests;
        domains take turns. Scenario and row decide which stretches.
        """
        lengths = self.lengths(row, prompt_tokens, reserved_tokens)
        number, count = int(self._numbers[row]), len(lengths.prompt)
        rng = np.random.default_rng([zlib.crc32(self.story.id.encode()), number])
        domain = (np.arange(count) + number) % len(self._texts)
        needed = lengths.prompt + lengths.output
        starts = np.zeros(count, dtype=np.int64)
        for index, ids in enumerate(self._texts):
            of_domain = domain == index
            starts[of_domain] = disjoint_starts(needed[of_domain], len(ids), rng)
        found = []
        for k in range(count):
            stretch = self._texts[domain[k]][starts[k] : starts[k] + needed[k]]
            prompt, output = np.split(stretch, [int(lengths.prompt[k])])
            found.append(Request(prompt, int(lengths.reserve[k]), output))
        return tuple(found)
