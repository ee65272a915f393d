"""What each form of `rapgym measure` measures and prints."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rapgym.errors import InvalidSpec
from rapgym.files import checked
from rapgym.model import blocks
from rapgym.model.shapes import FORMATS

if TYPE_CHECKING:
    from rapgym.arrays import BoolArray
    from rapgym.runtime.measure.campaign import Orders
    from rapgym.runtime.measure.designs import Plan
    from rapgym.runtime.measure.ledger import Measurement
    from rapgym.runtime.measure.meter import Meter, OutOfTime
    from rapgym.runtime.model import LoadedModel

# Shares of the layers that the orders go to where no number is given: 20 and 12 of SmolLM2's 30.
ATTENTION_SHARE, FFN_SHARE = 2 / 3, 2 / 5


def whole(arguments: argparse.Namespace, meter: "Meter", out: Path) -> int:
    """Every usual design, then the table."""
    from rapgym.runtime.measure import campaign, flops, table

    orders = _orders(arguments, meter)
    plan = _plan(arguments, meter, orders)
    found = campaign.run(meter, plan, orders=orders, draws=arguments.draws, quiet=arguments.quiet)
    table.build(meter, found, out)
    rows = list(meter.ledger.found.values())
    if arguments.json:
        summary = {"table": str(out), "sha256": checked.sha256_of(out)}
        print(json.dumps(summary | {"flops": flops.achieved(rows)}, indent=2))
        return 0
    print(out)
    _print_flops(arguments, rows)
    return 0


def design(arguments: argparse.Namespace, meter: "Meter") -> int:
    """One design; formats and influence print their numbers, the others how much there is."""
    from rapgym.jobs.progress import Progress
    from rapgym.runtime.measure import campaign

    if arguments.design not in ("formats", "influence"):
        return _sets_of_design(arguments, meter)
    formats = arguments.design == "formats"
    on = campaign.FORMATS_ON if formats else campaign.ORDER_DRAWS[:1]
    total = (len(FORMATS) if formats else 1) * sum(meter.weight(sample) for sample in on)
    with Progress(f"measure {meter.model.name}", total, quiet=arguments.quiet) as progress:
        if formats:
            rows = campaign.measure_formats(meter, on, progress)
        else:
            rows = [meter.influence(sample, progress) for sample in on]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    if formats:
        print("weights/KV, nats a token above dense bf16")
    for row in rows:
        if row.block_influence is None:
            print(f"{row.form}  {row.sample:<12} {_shown(row)}")
        else:
            print(f"block influence of each layer on {row.sample}")
            print(" ".join(f"{value:.4f}" for value in row.block_influence))
    return 0


def _sets_of_design(arguments: argparse.Namespace, meter: "Meter") -> int:
    from rapgym.runtime.measure import campaign, flops, table

    orders = _orders(arguments, meter)
    plan = _plan(arguments, meter, orders)
    campaign.run(
        meter,
        plan,
        only=(arguments.design,),
        orders=orders,
        draws=arguments.draws,
        quiet=arguments.quiet,
    )
    rows = list(meter.ledger.found.values())
    spent = table.spent(rows, meter.model.blocks)
    if arguments.json:
        print(json.dumps({"spent": spent, "flops": flops.achieved(rows)}, indent=2))
        return 0
    print("design           sample        rows   passes  seconds")
    for entry in spent:
        print(
            f"{entry['design']:<16} {entry['sample']:<12} {entry['rows']:>5} {entry['passes']:>8} "
            f"{entry['seconds']:>8}"
        )
    _print_flops(arguments, rows)
    return 0


def history(arguments: argparse.Namespace, model: "LoadedModel", work: Path) -> int:
    """What an answer costs whose context was computed with blocks dropped."""
    from rapgym.jobs.progress import Progress
    from rapgym.quality import history as quality_history
    from rapgym.quality.table import load_table
    from rapgym.runtime.measure import history as measure

    columns = load_table(arguments.orders_of).calibration()
    orders = {"attention": columns.attention_order.tolist(), "ffn": columns.ffn_order.tolist()}
    meter = measure.open_meter(model, work, dtype=arguments.dtype, length=arguments.seq)
    total = sum(map(len, measure.COUNTS.values())) * len(measure.WHENS)
    with meter.ledger, Progress(f"measure {model.name}", total, quiet=arguments.quiet) as progress:
        rows = meter.measure(orders, progress)
    found = measure.shares(rows)
    if arguments.out:
        told = meter.ledger.origin | {"orders_of": arguments.orders_of}
        quality_history.write(arguments.out, found, told)
    if arguments.json:
        shares = [asdict(share) for share in found]
        print(json.dumps({"rows": [asdict(row) for row in rows], "shares": shares}, indent=1))
        return 0
    print("nats a token of the answer above dense, where blocks are dropped in ...")
    print("kind       count  throughout  context   answer  share that stays of the context's")
    for each in found:
        print(
            f"{each.kind:<10} {each.count:>5}  {each.throughout:>10.4f} {each.context:>8.4f} "
            f"{each.answer:>8.4f}  {each.share:.2f} ({each.share_se:.2f})"
        )
    if arguments.out:
        print(f"wrote {arguments.out}")
    return 0


def choices(arguments: argparse.Namespace, model: "LoadedModel", work: Path) -> int:
    """The four-way choice of dense, its formats and the sets that are named."""
    from rapgym.jobs.progress import Progress
    from rapgym.runtime.measure import choice, designs

    dense, asked = designs.dense(model.blocks), _asked(arguments, model.blocks)
    meter, total = choice.open_meter(model, work, dtype=arguments.dtype), 1.0 + len(asked)
    total += len(FORMATS)
    with meter.ledger, Progress(f"measure {model.name}", total, quiet=arguments.quiet) as progress:
        rows = meter.measure([dense, *asked], progress=progress)
        for form in FORMATS:
            rows += meter.measure([dense], form, progress)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print("share of items whose true continuation was the most likely of four")
    for row in rows:
        print(f"{row.key}  {row.form:<9} {row.right.count('1') / len(row.right):.4f}")
    return 0


def asked(arguments: argparse.Namespace, meter: "Meter") -> int:
    """The kept sets of --kept and --kept-from."""
    from rapgym.jobs.progress import Progress
    from rapgym.runtime import samples
    from rapgym.runtime.measure import campaign

    sets = _asked(arguments, meter.model.blocks)
    wanted = arguments.sample or campaign.JUDGED_ON
    for sample in wanted:
        if sample not in samples.SAMPLES:
            known = ", ".join(samples.SAMPLES)
            raise InvalidSpec(f"no sample is called {sample!r}; there are {known}")
    total = len(sets) * sum(meter.weight(sample) for sample in wanted)
    with Progress(f"measure {meter.model.name}", total, quiet=arguments.quiet) as progress:
        rows = [
            row
            for sample in wanted
            for row in meter.measure(sets, sample, "asked", progress).values()
        ]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print(f"nats a token above dense{_in_format(arguments)}")
    for row in rows:
        print(f"{row.key}  {row.sample:<12} {_shown(row)}")
    return 0


def out_of_time() -> "type[OutOfTime]":
    """The exception that says that --minutes are over; torch is loaded only by then."""
    from rapgym.runtime.measure.meter import OutOfTime

    return OutOfTime


def stopped(arguments: argparse.Namespace, stop: "OutOfTime") -> int:
    """Say how much is left after --minutes."""
    left = round(stop.left_s / 60, 1) if stop.left_s == stop.left_s else None  # NaN: unknown
    if arguments.json:
        print(json.dumps({"done": round(stop.share, 4), "left_minutes": left}, indent=2))
        return 0
    about = "" if left is None else f", about {left:g} min left at this speed"
    print(
        f"stopped after {arguments.minutes:g} min, as --minutes asks: {stop.share:.1%} measured"
        f"{about}; the same command goes on"
    )
    return 0


def _orders(arguments: argparse.Namespace, meter: "Meter") -> "Orders | None":
    """The orders of the table that --orders-of names; None where nothing is named."""
    from rapgym.quality.table import QualityTable
    from rapgym.runtime.measure import campaign

    if arguments.orders_of is None:
        return None
    given = QualityTable.load(arguments.orders_of)
    if (given.model, given.blocks) != (meter.model.name, meter.model.blocks):
        raise InvalidSpec(
            f"--orders-of {arguments.orders_of}: it is of {given.model} with {given.blocks} blocks, "
            f"not of {meter.model.name} with {meter.model.blocks}"
        )
    first, header = given.header.orders[0], given.header
    return campaign.Orders(
        first.attention,
        first.ffn,
        first.joint,
        first.sample,
        {
            "table": given.name,
            "sha256": given.sha256,
            "format": f"{header.weights}/{header.kv}",
            "sequence_tokens": str(header.sequence_tokens),
        },
    )


def _plan(arguments: argparse.Namespace, meter: "Meter", orders: "Orders | None") -> "Plan":
    from rapgym.runtime.measure import designs

    layers = meter.model.layers
    drops = {
        "attention": arguments.attention_drops or round(ATTENTION_SHARE * layers),
        "ffn": arguments.ffn_drops or round(FFN_SHARE * layers),
    }
    if orders is not None:
        if arguments.attention_drops or arguments.ffn_drops or arguments.draws > 1:
            raise InvalidSpec(
                "--orders-of says how far the orders go: leave --...-drops, --draws away"
            )
        drops = {"attention": len(orders.attention), "ffn": len(orders.ffn)}
    if drops["attention"] >= layers or drops["ffn"] > layers:
        raise InvalidSpec(
            f"the model has {layers} layers: --attention-drops may be {layers - 1} at most (one "
            f"attention block stays), --ffn-drops {layers}"
        )
    return designs.Plan(
        attention_drops=drops["attention"],
        ffn_drops=drops["ffn"],
        random=arguments.random,
        near=arguments.near,
        grid_step=arguments.grid_step,
    )


def _asked(arguments: argparse.Namespace, n: int) -> "list[BoolArray]":
    """The kept sets of n blocks that --kept and --kept-from name."""
    from rapgym.bench import results

    keys = list(arguments.kept or [])
    if arguments.kept_from:
        keys += results.most_served(results.read(arguments.kept_from), arguments.most)
    return [blocks.kept_of(key, n) for key in keys]


def _print_flops(arguments: argparse.Namespace, rows: "list[Measurement]") -> None:
    from rapgym.runtime.measure import flops

    line = flops.statement(rows)
    if line and not arguments.quiet:
        print(line)


def _in_format(arguments: argparse.Namespace) -> str:
    return "" if arguments.format == "bf16/bf16" else f" in {arguments.format}"


def _shown(row: "Measurement") -> str:
    """Difference from dense and its error, domain by domain."""
    return "  ".join(
        f"{domain} {nll:+.4f} (se {se:.4f})"
        for domain, nll, se in zip(row.domains, row.nll, row.nll_se, strict=True)
    )
