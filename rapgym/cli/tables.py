"""`rapgym tables`: measured quality tables, and what one of them says of itself."""

import argparse
import json
from dataclasses import asdict
from math import isnan
from typing import TYPE_CHECKING, Any

from rapgym.cli import COMMANDS, Subparsers
from rapgym.files.shown import shown_lines

if TYPE_CHECKING:
    from rapgym.quality.table import QualityTable

EXAMPLE = "smollm2-135m"


def add(subparsers: Subparsers) -> None:
    """Register `tables list` and `tables show`."""
    command = subparsers.add_parser(
        "tables",
        help=COMMANDS["tables"],
        description="Quality tables: what each kept set of a model costs, as it was measured.",
        epilog=f"example: rapgym tables show {EXAMPLE}",
    )
    actions = command.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="tables of this package", epilog="example: rapgym tables list --json"
    )
    listing.set_defaults(run=_list)
    show = actions.add_parser(
        "show",
        help="provenance, orders and their spread, grid, formats, and the predictor's error",
        epilog=f"example: rapgym tables show {EXAMPLE}",
    )
    show.add_argument("name", metavar="NAME", help="a shipped table, or the path of a .csv.gz file")
    show.set_defaults(run=_show)
    for parser in (listing, show):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _list(arguments: argparse.Namespace) -> int:
    from rapgym.quality import table as quality_table

    tables = [quality_table.QualityTable.load(name) for name in quality_table.shipped()]
    entries = [
        {
            "name": table.name,
            "model": table.model,
            "weights": table.header.weights,
            "kv": table.header.kv,
            "sequence_tokens": table.header.sequence_tokens,
            "rows": len(table.file.rows),
            "sha256": table.sha256,
        }
        for table in tables
    ]
    if arguments.json:
        print(json.dumps(entries, indent=2))
        return 0
    for entry in entries:
        print(
            f"{entry['name']:<16} {entry['model']}, {entry['weights']} weights, {entry['kv']} KV, "
            f"{entry['sequence_tokens']} tokens, {entry['rows']} rows, sha256 "
            f"{str(entry['sha256'])[:12]}"
        )
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from rapgym.quality.table import QualityTable

    shown = summary(QualityTable.load(arguments.name))
    print(json.dumps(shown, indent=2) if arguments.json else shown_lines("\n".join(_lines(shown))))
    return 0


def summary(table: "QualityTable") -> dict[str, Any]:
    """What `tables show --json` prints of a table."""
    from rapgym.model import blocks
    from rapgym.quality import header as table_header

    header, calib = table.header, table.calibration()
    splits = ["calib"]
    if any(header.sample(name).split == "test" for name in table.file.rows.sample):
        splits.append("test")
    views = {split: calib if split == "calib" else table.test() for split in splits}

    def corners(values: Any) -> dict[str, float]:
        a, f = values.shape[0] - 1, values.shape[1] - 1
        places = {"attention": (a, 0), "ffn": (0, f), "both": (a, f), "half": (a // 2, f // 2)}
        return {name: round(float(values[place]), 4) for name, place in places.items()}

    return {
        "name": table.name,
        "sha256": table.sha256,
        "model": header.model,
        "blocks": header.blocks,
        "weights": header.weights,
        "kv": header.kv,
        "sequence_tokens": header.sequence_tokens,
        "ceiling": {"mean": table.ceiling()} | {d: table.ceiling(d) for d in header.domains},
        "samples": [
            {
                "name": sample.name,
                "split": sample.split,
                "tokens": sum(sample.tokens),
                "dense_nll": dict(zip(header.domains, sample.dense_nll, strict=True)),
                "rows": table.file.rows.sample.count(sample.name),
            }
            for sample in header.samples
        ],
        "orders": [
            {
                "sample": orders.sample,
                "attention": [blocks.name(block) for block in orders.attention],
                "ffn": [blocks.name(block) for block in orders.ffn],
                "joint": [blocks.name(block) for block in orders.joint],
            }
            for orders in header.orders
        ],
        "spread": [
            asdict(spread) | {"tau": None if isnan(spread.tau) else round(spread.tau, 4)}
            for spread in table_header.spreads(header.orders)
        ],
        "block_influence": list(header.block_influence),
        "formats": [asdict(form) for form in header.formats],
        "grid": {
            split: {
                "shape": list(view.grid_measured.shape),
                "measured": round(float(view.grid_measured.mean()), 4),
                "nll": corners(view.grid_nll),
            }
            for split, view in views.items()
        },
        "predictor": {split: table.held_out(split) for split in splits},
        "provenance": header.provenance,
    }


def _lines(shown: dict[str, Any]) -> list[str]:
    lines = [
        f"{shown['name']}: {shown['model']}, {shown['blocks']} blocks, {shown['weights']} weights, "
        f"{shown['kv']} KV, sequences of {shown['sequence_tokens']} tokens",
        f"sha256 {shown['sha256']}",
        "C (unigram less dense, nats a token): "
        + ", ".join(f"{domain} {value:.2f}" for domain, value in shown["ceiling"].items()),
        "",
        "text          split  tokens   rows  dense nll",
    ]
    for sample in shown["samples"]:
        dense = "  ".join(f"{domain} {value:.3f}" for domain, value in sample["dense_nll"].items())
        lines.append(
            f"{sample['name']:<13} {sample['split']:<5} {sample['tokens']:>7} {sample['rows']:>6}"
            f"  {dense}"
        )
    for orders in shown["orders"]:
        lines += ["", f"orders found on {orders['sample']}, cheapest first"]
        lines += [
            f"  {kind:<10} {' '.join(orders[kind])}" for kind in ("attention", "ffn", "joint")
        ]
    lines += _spread_lines(shown) + _influence_lines(shown)
    for split, grid in shown["grid"].items():
        a, f = (count - 1 for count in grid["shape"])
        nll = grid["nll"]
        lines += [
            "",
            f"grid to {a} attention and {f} FFN drops, {split} text: {grid['measured']:.0%} measured",
            f"  nats above dense: all attention {nll['attention']:.3f}, all FFN {nll['ffn']:.3f}, "
            f"all of both {nll['both']:.3f}, half of both {nll['half']:.3f}",
        ]
    lines += _format_lines(shown)
    lines += ["", "predictor's error on sets held out of its fit, nats (below 2 nats in brackets)"]
    lines += [line for split in shown["predictor"] for line in _errors(split, shown)]
    lines += ["", "provenance", json.dumps(shown["provenance"], indent=2)]
    return lines


def _spread_lines(shown: dict[str, Any]) -> list[str]:
    if not shown["spread"]:
        return ["", "orders were found on one draw of calibration text: their spread is not known"]
    lines = ["", "orders on different draws of calibration text: blocks in both, Kendall's tau"]
    for entry in shown["spread"]:
        one, other = entry["samples"]
        length, tau = entry["length"], entry["tau"]
        lines.append(
            f"  {entry['kind']:<10} {one}, {other}: {entry['half_shared']} of the first "
            f"{length // 2}, {entry['shared']} of {length}, tau {'-' if tau is None else f'{tau:.2f}'}"
        )
    return lines


def _influence_lines(shown: dict[str, Any]) -> list[str]:
    influence = shown["block_influence"]
    if not influence:
        return []
    lowest_first = sorted(range(len(influence)), key=lambda layer: influence[layer])
    ranked = " ".join(f"{layer} ({influence[layer]:.3f})" for layer in lowest_first)
    return ["", f"layers by block influence (ShortGPT), lowest first, {shown['orders'][0]['sample']}",
            f"  {ranked}"]  # fmt: skip


def _format_lines(shown: dict[str, Any]) -> list[str]:
    if not shown["formats"]:
        if (shown["weights"], shown["kv"]) != ("bf16", "bf16"):
            return []  # formats are compared with bf16, in its table
        return ["", f"formats are not measured: rapgym measure {shown['model']} --design formats"]
    note = shown["provenance"].get("formats")
    lines = [
        "",
        "formats of the dense model, nats above dense bf16" + (f" ({note})" if note else ""),
    ]
    for entry in shown["formats"]:
        of_domains = "  ".join(f"{nll:+.4f} (se {se:.4f})"
                               for nll, se in zip(entry["nll"], entry["nll_se"], strict=True))  # fmt: skip
        lines.append(
            f"  {entry['weights']} weights, {entry['kv']} KV  {entry['sample']:<11} {of_domains}  "
            f"p95 {entry['nll_p95']:+.4f}  top-1 {sum(entry['top1']) / len(entry['top1']):.4f}"
        )
    return lines


def _errors(split: str, shown: dict[str, Any]) -> list[str]:
    lines = []
    for entry in shown["predictor"][split]:
        whole, near = entry["all"], entry.get("below_2_nats", entry["all"])
        parts = [
            f"{label} {whole[name]:.3f} ({near[name]:.3f})"
            for label, name in (
                ("median", "median_abs"),
                ("mean", "mean_abs"),
                ("worst", "worst"),
                ("Spearman", "spearman"),
            )
        ]
        sets = f"{whole['sets']} {entry['design']} sets"
        lines.append(f"  {split:<6} {sets:<16} {', '.join(parts)}")
    return lines or [f"  {split:<6} not stated: too few sets were measured to hold any out"]
