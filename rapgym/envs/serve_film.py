"""The seconds of late of one serving lane, for pictures: memory by kind, queue, deadlines, decisions."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rapgym.arrays import IntArray
from rapgym.envs.film import Use, bar
from rapgym.serving.card import ATTENTION, FFN
from rapgym.serving.engine import DROP

if TYPE_CHECKING:  # which loads the compiler: environments of windows draw without
    from rapgym.serving.world import ServeWorld

SHOWN = 60  # seconds


@dataclass(frozen=True, slots=True)
class Second:
    """One served second, as it ended."""

    limit: int  # bytes
    use: Use
    asked: tuple[int, int, int]
    dropped: tuple[int, int]  # attention and FFN blocks that do not serve
    waiting: int
    running: int
    on_time: int  # output tokens
    late: int
    gone: int  # output tokens of shed requests, and those that will never be delivered
    preemptions: int
    shed: int
    cost: float  # minus the reward


class ServeFilm:
    """The last seconds of one lane's episode."""

    def __init__(self, world: "ServeWorld", title: str) -> None:
        self.world, self.title = world, title
        self.seconds: deque[Second] = deque(maxlen=SHOWN)
        self.served, self.length = 0, 0

    def begin(self, length: int) -> None:
        """Forget the episode before; the next one has so many seconds."""
        self.seconds.clear()
        self.served, self.length = 0, length

    def add(self, told: Mapping[str, float], asked: IntArray, cost: float) -> None:
        """Keep a second: what a lane's record tells, by the names of its columns, and its decision."""
        self.served += 1
        whole = {name: int(value) for name, value in told.items()}
        loading = whole["loading"]
        dropped = whole["attention_dropped"], whole["ffn_dropped"]
        held = dropped[0] - (loading == ATTENTION), dropped[1] - (loading == FFN)
        attention, ffn, on_fall = (int(each) for each in asked)
        self.seconds.append(
            Second(
                limit=whole["limit_bytes"],
                use=self._use(held, whole["pages_used"]),
                asked=(attention, ffn, on_fall),
                dropped=dropped,
                waiting=whole["waiting"],
                running=whole["running"],
                on_time=whole["on_time_tokens"],
                late=whole["tokens"] - whole["on_time_tokens"],
                gone=whole["shed_tokens"] + whole["lost_tokens"],
                preemptions=whole["preemptions"],
                shed=whole["shed"],
                cost=cost,
            )
        )

    def _use(self, held: tuple[int, int], pages: int) -> Use:
        card, foot = self.world.card, self.world.card.footprint
        tokens = pages * self.world.profile.page_tokens
        return Use(
            other=card.used_bytes((0, 0), 0) - card.weight_bytes((0, 0)),
            attention=(foot.layers - held[0]) * foot.attention_bytes,
            ffn=(foot.layers - held[1]) * foot.ffn_bytes,
            kv=tokens * card.token_bytes(held),
        )


def text(film: ServeFilm) -> str:
    """The last second in words, with a bar of memory."""
    lines = [f"{film.title}: {film.served} of {film.length} s served"]
    if not film.seconds:
        return f"{lines[0]}\nan idle engine, every block in memory"
    last, layers = film.seconds[-1], film.world.card.footprint.layers
    order = "drop" if last.asked[2] == DROP else "preempt"
    return "\n".join(
        [
            *lines,
            f"asked  {last.asked[0]} attention and {last.asked[1]} FFN blocks dropped, on a fall {order}",
            f"queue  {last.waiting} waiting, {last.running} running; {last.preemptions} preempted, "
            f"{last.shed} shed",
            f"tokens {last.on_time} on time, {last.late} late, {last.gone} never; cost {last.cost:.4f}",
            f"       {bar(last.use, last.limit, film.world.card_bytes)} "
            f"{layers - last.dropped[0]}/{layers} attention, {layers - last.dropped[1]}/{layers} FFN",
            "       o other, a attention, f FFN, k KV cache; | the limit",
        ]
    )
