"""What an output token costs: the harm of what it was computed under, and of coming late."""

from dataclasses import dataclass

from rapgym.arrays import FloatArray
from rapgym.errors import InvalidSpec


@dataclass(frozen=True, slots=True)
class Deadlines:
    """When an output token is due: token i of a request, counted from 0, at

    arrival + ttft_s + ttft_token_s * prompt tokens + i * tpot_s.

    A hard cliff behind it would pay a policy for clearing its queue with garbage: lateness costs
    linearly, up to a refused token's worth at `late_s`.
    """

    ttft_s: float = 2.0
    ttft_token_s: float = 0.0002  # as the residence rule has it for prefill
    tpot_s: float = 0.1
    late_s: float = 10.0

    def __post_init__(self) -> None:
        if min(self.ttft_s, self.ttft_token_s, self.tpot_s) < 0 or self.late_s <= 0:
            raise InvalidSpec("deadlines lie after the arrival, and lateness has a length above 0")

    def due_s(self, arrival_s: float, prompt_tokens: int, index: int) -> float:
        """When token `index` of a request's output is due."""
        return arrival_s + self.ttft_s + self.ttft_token_s * prompt_tokens + index * self.tpot_s


@dataclass(frozen=True, slots=True, eq=False)
class Harm:
    """Nats a token by dropped counts, and what stays of damage that is in the KV cache alone."""

    nll: FloatArray  # above the full bf16 model at each pair of counts, [A + 1, F + 1]
    # Share of the FFN damage that stays when so many FFN blocks were cut for the context alone, [F + 1].
    # Of attention all of it stays: the keys and values are missing.
    history_share: FloatArray
    ceiling: float  # C: a token that nobody gets

    def nats(self, attention: int, ffn: int, ffn_now: int) -> float:
        """Of a token: the most blocks dropped while its context was computed, and FFN blocks now."""
        now = float(self.nll[attention, ffn_now])
        then = float(self.nll[attention, ffn])
        return min(now + float(self.history_share[ffn]) * (then - now), self.ceiling)

    def cost(self, nats: float, late_s: float, worthless_s: float) -> float:
        """The same where it comes `late_s` after it was due; C from `worthless_s` on."""
        return nats + (self.ceiling - nats) * min(1.0, max(0.0, late_s) / worthless_s)
