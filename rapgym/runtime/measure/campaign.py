"""One resumable measurement of a model: every design of a plan, in the order of their use."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rapgym.arrays import BoolArray
from rapgym.errors import InvalidSpec
from rapgym.jobs.progress import Progress
from rapgym.model import blocks
from rapgym.model.shapes import BF16, FORMATS, Format
from rapgym.quality import texts as quality_texts
from rapgym.runtime import samples
from rapgym.runtime.measure import designs
from rapgym.runtime.measure.ledger import Ledger, Measurement
from rapgym.runtime.measure.meter import Meter
from rapgym.runtime.measure.origins import origin
from rapgym.runtime.model import LoadedModel

ORDER_DRAWS = ("order-0", "order-1", "order-2")
JUDGED_ON = ("calib", "test")
FORMATS_ON = ("calib", "test", "test-large")
DESIGNS = ("single", "pairs", "orders", "grid", "random", "near", "formats", "influence")
ON_ORDERS = ("orders", "grid", "random", "near")  # what cannot be measured before orders are known


@dataclass(frozen=True, slots=True)
class Orders:
    """Blocks in the order in which greedy search drops them, cheapest first."""

    attention: tuple[int, ...]
    ffn: tuple[int, ...]
    joint: tuple[int, ...]
    # Where they come from: on what sample they were found, and in which table if not here.
    sample: str = ORDER_DRAWS[0]
    found_in: Mapping[str, str] = field(default_factory=dict)


def find_orders(
    meter: Meter, plan: designs.Plan, sample: str, progress: Progress | None = None
) -> Orders:
    """The three greedy orders on one draw of calibration text."""
    n = meter.model.blocks
    found: list[list[int]] = []
    for kind, drops in enumerate((plan.attention_drops, plan.ffn_drops)):
        design, candidates = f"{blocks.KINDS[kind]}-order", list(range(kind, n, 2))
        found.append(designs.greedy_order(meter, sample, design, candidates, drops, progress))
    both = sorted(found[0] + found[1])
    joint = designs.greedy_order(meter, sample, "joint-order", both, len(both), progress)
    return Orders(tuple(found[0]), tuple(found[1]), tuple(joint), sample)


def measure_formats(
    meter: Meter, on: Sequence[str] = FORMATS_ON, progress: Progress | None = None
) -> list[Measurement]:
    """What each format of weights and KV costs the dense model, on each sample."""
    dense = [designs.dense(meter.model.blocks)]
    return [
        row
        for sample in on
        for form in FORMATS
        for row in meter.measure(dense, sample, "formats", progress, form).values()
    ]


def usual(meter: Meter, orders: Orders | None = None) -> tuple[str, ...]:
    """The designs of a whole table: pairs on an accelerator alone, where they take minutes.

    Where `orders` are given, another table has block influence and the formats already. Formats
    are compared with bf16, so a table of another format has none.
    """
    without = set()
    if meter.model.network.device.type == "cpu":
        without.add("pairs")
    if orders is not None:
        without |= {"formats", "influence"}
    if meter.form != BF16:
        without.add("formats")
    return tuple(design for design in DESIGNS if design not in without)


@dataclass(frozen=True, slots=True)
class _Judging:
    """Kept sets that are measured on the samples by which a table judges."""

    design: str  # as rows call it
    count: int
    sets: Callable[[], list[BoolArray]]
    on: tuple[str, ...] = JUDGED_ON


def run(
    meter: Meter,
    plan: designs.Plan,
    *,
    only: Collection[str] = (),
    orders: Orders | None = None,
    draws: int = 1,
    quiet: bool = False,
) -> Orders | None:
    """Measure everything that `plan` names; what the ledger has is not measured again.

    Args:
        only: the designs of `DESIGNS` to measure, with what they rest on; `usual` ones if empty.
        orders: those of another table; found by greedy search where None. Single removals are
            then measured on the first draw of calibration text alone.
        draws: on how many draws of calibration text the orders are found; the first one's count.

    Returns:
        The orders; None where no design needed them.

    Raises:
        OutOfTime: as `Meter.measure`.
    """
    n, first = meter.model.blocks, ORDER_DRAWS[0]
    wanted = set(only or usual(meter, orders))
    search = orders is None and bool(wanted.intersection(ON_ORDERS))
    further = ORDER_DRAWS[1:draws] if search and "orders" in wanted else ()
    single = "single" in wanted or (search and "orders" in wanted)

    def joint() -> list[int]:
        assert orders is not None
        return list(orders.joint)

    def crossing(step: int) -> list[BoolArray]:
        assert orders is not None
        return designs.grid(n, list(orders.attention), list(orders.ffn), step)

    def near() -> list[BoolArray]:
        assert orders is not None
        kinds = list(orders.attention), list(orders.ffn)
        return designs.near_sets(n, *kinds, plan.near, plan.seed)

    a, f = plan.attention_drops, plan.ffn_drops
    coarse = max(2, plan.grid_step)
    # What decisions rest on first: a ledger that is cut short already makes a table.
    listed = {
        "orders": [
            _Judging("dense", 1, lambda: [designs.dense(n)]),
            _Judging("joint-order", a + f,
                     lambda: [designs.without(n, joint()[:k]) for k in range(1, a + f + 1)]),
        ],
        "grid": [_Judging("grid", designs.grid_size(a, f, coarse), lambda: crossing(coarse))],
        "single": [_Judging("single", n, lambda: designs.singles(n))] if orders is None else [],
        "random": [_Judging("random", plan.random, lambda: designs.random_sets(
            n, sorted(joint()), plan.random, plan.seed))],
        "fine grid": [_Judging("grid", designs.grid_size(a, f), lambda: crossing(1))]
        if plan.grid_step == 1 else [],
        "near": [_Judging("near", plan.near, near)],
        "pairs": [_Judging("pair", n * (n - 1) // 2, lambda: designs.pairs(n))],
    }  # fmt: skip
    steps = [step for name, some in listed.items() if name.split()[-1] in wanted for step in some]
    per_draw = plan.evaluations(n)
    searching = sum(per_draw.values()) - per_draw["single"]
    total = sum(step.count * meter.weight(sample) for step in steps for sample in step.on)
    total += (searching * (search + len(further)) + n * (single + len(further))) * meter.weight(
        first
    )
    total += ("influence" in wanted) * meter.weight(first)
    if "formats" in wanted:
        total += sum(len(FORMATS) * meter.weight(sample) for sample in FORMATS_ON)
    with Progress(f"measure {meter.model.name}", total, quiet=quiet) as progress:
        if "influence" in wanted:
            meter.influence(first, progress)
        if single:
            meter.measure(designs.singles(n), first, "single", progress)
        if search:
            orders = find_orders(meter, plan, first, progress)
        for step in steps:
            sets = step.sets()
            for sample in step.on:
                meter.measure(sets, sample, step.design, progress)
        for sample in further:
            meter.measure(designs.singles(n), sample, "single", progress)
            find_orders(meter, plan, sample, progress)
        if "formats" in wanted:
            measure_formats(meter, FORMATS_ON, progress)
    return orders


def open_meter(
    model: LoadedModel,
    path: Path,
    *,
    length: int,
    dtype: str,
    domains: tuple[str, ...],
    texts: quality_texts.Texts = quality_texts.SHIPPED,
    form: Format = BF16,
    chosen: Mapping[str, samples.Sample] = samples.SAMPLES,
    together: int | None = None,
) -> Meter:
    """A meter whose ledger at `path` is started or resumed; the rest as for `Meter`.

    Raises:
        InvalidSpec: the model was made for shorter sequences.
        InvalidTable: the ledger holds measurements of another origin.
    """
    most = getattr(model.network.config, "max_position_embeddings", None)
    if most is not None and length > most:
        raise InvalidSpec(
            f"{model.name} takes {most} tokens at most: sequences of {length} are too long (--seq)"
        )
    described = origin(
        model, length=length, domains=domains, dtype=dtype, texts=texts, form=form, chosen=chosen
    )
    ledger = Ledger(path, described, Measurement)
    return Meter(
        model,
        ledger,
        length=length,
        domains=domains,
        texts=texts,
        form=form,
        chosen=chosen,
        together=together,
    )
