"""`rapgym measure`: the quality table of a model, measured on this machine."""

import argparse
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rapgym.cli import COMMANDS, Subparsers, at_least, measured, require
from rapgym.errors import DataUnavailable, InvalidSpec, RapgymError
from rapgym.files import checked, writing
from rapgym.model import pretrained
from rapgym.model.shapes import BF16, Format, format_of
from rapgym.quality import history as quality_history
from rapgym.quality import texts as quality_texts

if TYPE_CHECKING:
    from rapgym.runtime.model import LoadedModel

DESIGNS = ("single", "pairs", "orders", "grid", "random", "near", "formats", "influence")
SEQUENCE_TOKENS = 512


def add(subparsers: Subparsers) -> None:
    """Register `measure`."""
    command = subparsers.add_parser(
        "measure",
        help=COMMANDS["measure"],
        description="Measure how much each kept set of a model costs, in nats a token, and write "
        "the table. It may be stopped at any time: the same command goes on where it was. Texts "
        "are those that rapgym texts list shows, as far as they are here, or are given with --text. "
        "How long it takes: all of the reference model runs 5.5 million tokens through it on three domains, "
        "a third of that on wiki alone: 2.5 hours at the 650 tokens a second of two quiet cores, 5 to 15 on "
        "busy ones; a model of 7B takes fifty times as long on the same processor, so use --device cuda. "
        "--orders-of, --grid-step, --random, --near and --no-divergence make it less, and "
        "--minutes takes it in parts.",
        epilog="example: rapgym measure smollm2-135m --minutes 9 --out smollm2-135m.csv.gz",
    )
    command.add_argument("model", metavar="MODEL", help="a known model, a folder or a hub id")
    command.add_argument("--out", type=Path, metavar="FILE", help="the table (MODEL.csv.gz)")
    command.add_argument("--force", action="store_true", help="overwrite a table that is there")
    command.add_argument(
        "--work", type=Path, metavar="FILE", help="finished measurements (in the cache folder)"
    )
    _add_extent(command)
    _add_what(command)
    command.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    command.add_argument("--device", default="cpu", help="where torch runs (cpu)")
    command.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads of torch")
    command.add_argument(
        "--together",
        type=at_least(1),
        metavar="N",
        help="kept sets in one forward pass (1 on a CPU; up to 64 elsewhere, as memory allows)",
    )
    command.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="stop after so many minutes, with exit code 0; the same command goes on",
    )
    command.add_argument("--quiet", action="store_true", help="no progress line")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def _add_extent(command: argparse.ArgumentParser) -> None:
    """How much is measured."""
    whole = at_least(0)
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
        "--grid-step",
        type=at_least(1),
        default=1,
        metavar="N",
        help="measure every N-th count of the grid (1)",
    )
    command.add_argument(
        "--draws",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="draws of calibration text on which the orders are found (1)",
    )
    command.add_argument(
        "--orders-of",
        metavar="TABLE",
        help="take the greedy orders, hence floor and grid, from a table of the same model, "
        "instead of searching for them: that takes hours",
    )
    command.add_argument(
        "--seq",
        type=at_least(2),
        default=SEQUENCE_TOKENS,
        metavar="N",
        help=f"tokens of a sequence ({SEQUENCE_TOKENS}); another length needs its own --work and "
        "--out",
    )
    command.add_argument(
        "--sequences",
        type=at_least(1, 5),
        default=2,
        metavar="N",
        help="sequences of each domain on which sets are judged, 1 to 5 (2)",
    )
    command.add_argument(
        "--no-divergence",
        action="store_true",
        help="leave out KL and top-1 agreement: a third less time",
    )


def _add_what(command: argparse.ArgumentParser) -> None:
    """What is measured."""
    command.add_argument(
        "--format",
        default="bf16/bf16",
        metavar="WEIGHTS/KV",
        help="a table of its own for a format, such as int4/bf16: weights bf16, int8 or int4, KV "
        "bf16 or int8; dense is then the dense model in that format (bf16/bf16)",
    )
    command.add_argument(
        "--text",
        action="append",
        metavar="NAME=FILE",
        help="a domain of your own instead of the shipped ones: one file, cut in two, or "
        f"NAME.calib=FILE and NAME.test=FILE; refused if both hold the same {quality_texts.SHARED} "
        "characters in a row",
    )
    command.add_argument(
        "--design",
        choices=("all", *DESIGNS, "choice", "history"),
        default="all",
        help="measure just this, with what it rests on, and print it: the next run without "
        "--design takes it into the table. choice: four-way choice of the true continuation, of "
        "the dense model and of --kept, in a ledger of its own. history: what an answer costs whose "
        "context was computed with blocks dropped, with --orders-of, in a ledger of its own; --out "
        "TABLE.history.json keeps the shares",
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


def run(arguments: argparse.Namespace) -> int:
    """Measure what is missing, then write the table or print what was asked for."""
    begun_s = time.monotonic()
    form = _checked(arguments)
    require("device", "torch", "transformers")
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # torch reads it as it is imported
    from rapgym.runtime import rounding, samples
    from rapgym.runtime.measure import campaign
    from rapgym.scenarios import tables

    name = tables.table_name(short_name(arguments.model), form)
    ledger = {"choice": "choices", "history": "history"}.get(arguments.design, "work")
    work = arguments.work or checked.cache_folder() / "measure" / f"{name}.{ledger}.jsonl"
    out = arguments.out or Path(f"{name}.csv.gz")
    ending = quality_history.SUFFIX if arguments.design == "history" else ".csv.gz"
    if arguments.out and not out.name.endswith(ending):
        raise InvalidSpec(f"--out {out}: its name ends in {ending}")
    whole = arguments.design == "all" and not (arguments.kept or arguments.kept_from)
    if whole or (arguments.design == "history" and arguments.out):
        writing.refuse_existing(out, "--out", force=arguments.force)
    texts = _texts(arguments)
    loaded = _loaded(arguments)
    if arguments.design == "choice":
        return measured.choices(arguments, loaded, work)
    if arguments.design == "history":
        return measured.history(arguments, loaded, work)
    with ExitStack() as stack:
        stack.enter_context(rounding.rounded(loaded.network, form))
        meter = campaign.open_meter(
            loaded,
            work,
            length=arguments.seq,
            dtype=arguments.dtype,
            domains=texts.domains,
            texts=texts,
            form=form,
            chosen=samples.judging(arguments.sequences, divergence=not arguments.no_divergence),
            together=arguments.together,
        )
        stack.enter_context(meter.ledger)
        if arguments.minutes is not None:
            meter.deadline_s = begun_s + 60 * arguments.minutes
        try:
            if arguments.kept or arguments.kept_from:
                return measured.asked(arguments, meter)
            if arguments.design != "all":
                return measured.design(arguments, meter)
            return measured.whole(arguments, meter, out)
        except measured.out_of_time() as stop:
            return measured.stopped(arguments, stop)


def _texts(arguments: argparse.Namespace) -> quality_texts.Texts:
    """The texts to measure on, each of them checked: before a model is loaded.

    Raises:
        DataUnavailable, WrongChecksum: one is missing or damaged.
        InvalidSpec: those that were given are none.
    """
    if arguments.text:
        return quality_texts.named(arguments.text)
    here = quality_texts.here()
    if here == quality_texts.DOMAINS:
        return quality_texts.SHIPPED
    if arguments.design in ("choice", "history"):
        for text in quality_texts.TEXTS:  # these two are of all domains
            quality_texts.read(text.domain, text.split)
    print(
        f"measured on {', '.join(here)} alone: the texts of the other domains are not on this machine (rapgym texts "
        "list)",
        file=sys.stderr,
    )
    return quality_texts.Shipped(here)


def short_name(model: str) -> str:
    """What files of a model are called: its known name, or the last part of a folder or hub id."""
    return model if pretrained.known(model) else Path(model).resolve().name


def _checked(arguments: argparse.Namespace) -> Format:
    """The format that is asked for.

    Raises:
        InvalidSpec: there is none of this name, or arguments contradict each other.
    """
    asked, design = arguments.kept or arguments.kept_from, arguments.design
    if arguments.sample and (design != "all" or not asked):
        raise InvalidSpec("--sample goes with --kept or --kept-from, not with --design")
    if design in DESIGNS and asked:
        raise InvalidSpec(f"--design {design} names its own sets: leave --kept away")
    form = format_of(arguments.format)
    if form != BF16 and design in ("formats", "choice"):
        raise InvalidSpec(f"--design {design} compares all formats with bf16: leave --format away")
    if design == "history" and (form != BF16 or arguments.text or not arguments.orders_of):
        raise InvalidSpec(
            "--design history is of bf16 and the shipped texts, along the orders of a table: give "
            "--orders-of, and leave --format and --text away"
        )
    if arguments.text and design == "choice":
        raise InvalidSpec("--design choice is of the shipped texts: leave --text away")
    if arguments.minutes is not None and not arguments.minutes > 0:
        raise InvalidSpec("--minutes is more than 0")
    return form


def _loaded(arguments: argparse.Namespace) -> "LoadedModel":
    from rapgym.runtime import model

    try:
        return model.load(arguments.model, dtype=arguments.dtype, device=arguments.device)
    except RapgymError:
        raise
    except (OSError, ValueError) as error:  # transformers, of a folder or hub id it cannot read
        raise DataUnavailable(f"{arguments.model} cannot be loaded: {error}") from error
