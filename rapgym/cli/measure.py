"""`rapgym measure`: the quality table of a model, measured on this machine."""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rapgym import blocks, corpus, datafiles, models
from rapgym.cli import Subparsers, at_least, require
from rapgym.errors import DataUnavailable, InvalidSpec, RapgymError
from rapgym.specs import FORMATS

if TYPE_CHECKING:
    from rapgym.runtime.ledger import Measurement
    from rapgym.runtime.measure import Meter
    from rapgym.runtime.model import LoadedModel
    from rapgym.specs import BoolArray

# Shares of the layers that the orders go to where no number is given: 20 and 12 of SmolLM2's 30.
ATTENTION_SHARE, FFN_SHARE = 2 / 3, 2 / 5


def add(subparsers: Subparsers) -> None:
    """Register `measure`."""
    command = subparsers.add_parser(
        "measure",
        help="measure a model's quality table",
        description="Measure how much each kept set of a model costs, in nats a token, and write "
        "the table. It may be stopped at any time: the same command goes on where it was. Texts "
        "are read from the folder that RAPGYM_DATA names.",
        epilog="example: rapgym measure smollm2-135m --out smollm2-135m.csv.gz",
    )
    whole = at_least(0)
    command.add_argument("model", metavar="MODEL", help="a known model, a folder or a hub id")
    command.add_argument("--out", type=Path, metavar="FILE", help="the table (MODEL.csv.gz)")
    command.add_argument(
        "--work", type=Path, metavar="FILE", help="finished measurements (in the cache folder)"
    )
    for kind, share in (("attention", "2/3"), ("ffn", "2/5")):
        command.add_argument(
            f"--{kind}-drops",
            type=at_least(1),
            metavar="N",
            help=f"{kind} blocks that may be dropped ({share} of the layers)",
        )
    command.add_argument(
        "--random", type=whole, default=200, metavar="N", help="random kept sets (200)"
    )
    command.add_argument(
        "--near", type=whole, default=60, metavar="N", help="kept sets next to the grid (60)"
    )
    command.add_argument(
        "--draws",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="draws of calibration text on which the orders are found (1)",
    )
    command.add_argument(
        "--seq", type=at_least(2), default=512, metavar="N", help="tokens of a sequence (512)"
    )
    command.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    command.add_argument("--device", default="cpu", help="where torch runs (cpu)")
    command.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads of torch")
    command.add_argument(
        "--design",
        choices=("formats", "influence", "choice"),
        help="measure just this, of the dense model, and print it: formats of weights and KV, "
        "ShortGPT's block influence, or the four-way choice of the true continuation (also of "
        "--kept, in a ledger of its own); the next run without --design takes the first two into "
        "the table",
    )
    command.add_argument(
        "--kept",
        nargs="+",
        metavar="KEY",
        help="measure just these kept sets and print them; the next run without --kept takes them "
        "into the table",
    )
    command.add_argument(
        "--kept-from",
        type=Path,
        metavar="RESULTS",
        help="the same for the sets that served most in a results file of `rapgym bench`",
    )
    command.add_argument(
        "--most", type=at_least(1), default=40, metavar="N", help="how many of them (40)"
    )
    command.add_argument(
        "--sample",
        action="append",
        metavar="NAME",
        help="with --kept or --kept-from: the sample of text, once or more (calib and test; "
        "calib-large and test-large are longer)",
    )
    command.add_argument("--quiet", action="store_true", help="no progress line")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure what is missing, then write the table or print the sets of `--kept`."""
    if arguments.sample and (arguments.design or not (arguments.kept or arguments.kept_from)):
        raise InvalidSpec("--sample goes with --kept or --kept-from, not with --design")
    if arguments.design in ("formats", "influence") and (arguments.kept or arguments.kept_from):
        raise InvalidSpec(f"--design {arguments.design} is of the dense model: leave --kept away")
    require("device", "torch", "transformers")
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # torch reads it as it is imported
    from rapgym.runtime import campaign, model

    name = short_name(arguments.model)
    ledger = "choices" if arguments.design == "choice" else "work"
    work = arguments.work or datafiles.cache_folder() / "measure" / f"{name}.{ledger}.jsonl"
    out = arguments.out or Path(f"{name}.csv.gz")
    if not out.name.endswith(".csv.gz"):
        raise InvalidSpec(f"--out {out}: a table's name ends in .csv.gz")
    try:
        loaded = model.load(arguments.model, dtype=arguments.dtype, device=arguments.device)
    except RapgymError:
        raise
    except (OSError, ValueError) as error:  # transformers, of a folder or hub id it cannot read
        raise DataUnavailable(f"{arguments.model} cannot be loaded: {error}") from error
    if arguments.design == "choice":
        return _measure_choices(arguments, loaded, work)
    meter = campaign.open_meter(
        loaded,
        work,
        length=arguments.seq,
        dtype=arguments.dtype,
        domains=corpus.DOMAINS,
    )
    with meter.ledger:
        if arguments.design:
            return _measure_dense(arguments, meter)
        if arguments.kept or arguments.kept_from:
            return _measure_kept(arguments, meter)
        return _measure_all(arguments, meter, out)


def short_name(model: str) -> str:
    """What files of a model are called: its known name, or the last part of a folder or hub id."""
    return model if models.known(model) else Path(model).resolve().name


def _measure_all(arguments: argparse.Namespace, meter: "Meter", out: Path) -> int:
    from rapgym.runtime import campaign, designs, table

    layers = meter.model.layers
    plan = designs.Plan(
        attention_drops=arguments.attention_drops or round(ATTENTION_SHARE * layers),
        ffn_drops=arguments.ffn_drops or round(FFN_SHARE * layers),
        random=arguments.random,
        near=arguments.near,
    )
    if plan.attention_drops >= layers or plan.ffn_drops > layers:
        raise InvalidSpec(
            f"the model has {layers} layers: --attention-drops may be {layers - 1} at most (one "
            f"attention block stays), --ffn-drops {layers}"
        )
    orders = campaign.run(meter, plan, draws=arguments.draws, quiet=arguments.quiet)
    table.build(meter, orders, out)
    summary = {"table": str(out), "sha256": datafiles.sha256_of(out)}
    print(json.dumps(summary, indent=2) if arguments.json else out)
    return 0


def _asked(arguments: argparse.Namespace, n: int) -> "list[BoolArray]":
    """The kept sets of n blocks that --kept and --kept-from name."""
    from rapgym import results

    keys = list(arguments.kept or [])
    if arguments.kept_from:
        keys += results.most_served(results.read(arguments.kept_from), arguments.most)
    return [blocks.kept_of(key, n) for key in keys]


def _measure_dense(arguments: argparse.Namespace, meter: "Meter") -> int:
    from rapgym.progress import Progress
    from rapgym.runtime import campaign

    on = campaign.FORMATS_ON if arguments.design == "formats" else campaign.ORDER_DRAWS[:1]
    each = len(FORMATS) if arguments.design == "formats" else 1
    total = each * sum(meter.weight(sample) for sample in on)
    with Progress(f"measure {meter.model.name}", total, quiet=arguments.quiet) as progress:
        if arguments.design == "formats":
            rows = campaign.measure_formats(meter, on, progress)
        else:
            rows = [meter.influence(sample, progress) for sample in on]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    if arguments.design == "formats":
        print("weights/KV, nats a token above dense bf16")
    for row in rows:
        if row.block_influence is None:
            print(f"{row.form}  {row.sample:<12} {_shown(row)}")
        else:
            print(f"block influence of each layer on {row.sample}")
            print(" ".join(f"{value:.4f}" for value in row.block_influence))
    return 0


def _measure_choices(arguments: argparse.Namespace, model: "LoadedModel", work: Path) -> int:
    from rapgym.progress import Progress
    from rapgym.runtime import choice, designs

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


def _shown(row: "Measurement") -> str:
    """Difference from dense and its error, domain by domain."""
    return "  ".join(
        f"{domain} {nll:+.4f} (se {se:.4f})"
        for domain, nll, se in zip(row.domains, row.nll, row.nll_se, strict=True)
    )


def _measure_kept(arguments: argparse.Namespace, meter: "Meter") -> int:
    from rapgym.progress import Progress
    from rapgym.runtime import campaign, samples

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
    print("nats a token above dense")
    for row in rows:
        print(f"{row.key}  {row.sample:<12} {_shown(row)}")
    return 0
