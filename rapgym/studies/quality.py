"""Quality beyond perplexity: a dozen sets of the grid and the formats, judged in several ways.

    python -m rapgym.studies.quality          make results/quality.json, and print it
    python -m rapgym.studies.quality --keys   the sets' keys, for `rapgym measure`

From the table (differences from dense on its largest test sample) and from the outcomes of the
four-way choice in measurements/; no model is needed. The sets were chosen by their counts before
any of them was judged.
"""

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.errors import UnmeasuredSet
from rapgym.files import checked, places, writing
from rapgym.quality import harm
from rapgym.quality.table import QualityTable

NAME = "smollm2-135m"
CHOICES = places.RESULTS / "measurements" / f"{NAME}.choices.jsonl.gz"
OUT = places.RESULTS / "quality.json"


def choice_quality(right: FloatArray, dense: FloatArray, domains: Sequence[str]) -> dict[str, Any]:
    """Accuracy of a set's choices and the difference from dense's, with their errors.

    Args:
        right: 1 where the true continuation was chosen, [domains, items].
        dense: the same of the dense model; differences are paired item by item.

    Returns:
        Means over domains that count the same. Errors take items as independent draws within
        their domain.
    """
    paired = right - dense
    return {
        "accuracy": harm.mean(right.mean(axis=1).tolist()),
        "accuracy_se": _se(right),
        "accuracy_difference": harm.mean(paired.mean(axis=1).tolist()),
        "accuracy_difference_se": _se(paired),
        "accuracy_by_domain": dict(zip(domains, right.mean(axis=1).round(6).tolist(), strict=True)),
    }


def _se(values: FloatArray) -> float:
    """Standard error of the mean over domains of means over items, [domains, items]."""
    of_domain = values.var(axis=1, ddof=1) / values.shape[1]
    return round(float(np.sqrt(of_domain.sum())) / len(values), 6)


def read_choices(path: Path) -> tuple[dict[str, Any], dict[tuple[str, str], FloatArray]]:
    """A ledger of choices: its origin; and (key, format) -> 1 where right, [domains, items]."""
    first, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    origin, found = json.loads(first), {}
    for row in map(json.loads, lines):
        right = np.array([float(digit) for digit in row["right"]])
        form = row.get("form", "bf16/bf16")
        found[row["key"], form] = right.reshape(len(origin["domains"]), -1)
    return origin, found


def judged(table: QualityTable, choices: Path) -> dict[str, Any]:
    """Everything about the main sets.

    Raises:
        UnmeasuredSet: one lacks a measurement; the message says what to run.
    """
    origin, chosen = read_choices(choices)
    sets, entries = harm.main_sets(table), []
    for main in sets:
        place = (main.key, f"{main.form.weights}/{main.form.kv}")
        if place not in chosen:
            raise UnmeasuredSet(
                f"{main.name} has not chosen: rapgym measure {table.model} --design choice "
                f"--kept {main.key}"
            )
        dense = chosen[sets[0].key, "bf16/bf16"]
        entries.append(
            {
                "name": main.name,
                "attention_dropped": main.counts[0],
                "ffn_dropped": main.counts[1],
                "key": main.key,
                "weights": main.form.weights,
                "kv": main.form.kv,
            }
            | harm.text_quality(table, main)
            | choice_quality(chosen[place], dense, origin["domains"])
        )
    text = table.header.sample(harm.SAMPLE)
    return {
        "table": {"name": table.name, "sha256": table.sha256},
        "sample": {"name": harm.SAMPLE, "tokens": sum(text.tokens)},
        "choice": {
            "items": origin["items"],
            "items_sha256": origin["items_sha256"],
            "context_tokens": origin["context_tokens"],
            "continuation_tokens": origin["continuation_tokens"],
            "chance": 0.25,
            "note": "ours, no public benchmark: which of four continuations of a stretch of test "
            "text is most likely; the three false ones continue other stretches of the same document",
        },
        "formats_note": table.header.provenance.get("formats"),
        "device_kind": origin["device_kind"],
        "dtype": origin["dtype"],
        "measurements": {
            "choices": choices.name,
            "choices_sha256": checked.sha256_of(choices),
        },
        "sets": entries,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The table as text."""
    shown = [
        f"nats above dense on {found['sample']['tokens']} test tokens; choice of the true one of "
        f"four continuations, {found['choice']['items']} items ({found['choice']['note']})",
        f"{'set':<28}{'nll':>7}{'se':>7}{'worst domain':>15}{'p95':>8}{'top-1':>7}{'kl':>7}"
        f"{'choice':>8}{'se':>6}{'from dense':>11}{'se':>6}",
    ]
    for entry in found["sets"]:
        worst = f"{entry['worst_domain']} {entry['worst_nll']:.3f}"
        shown.append(
            f"{entry['name']:<28}{entry['nll']:7.3f}{entry['nll_se']:7.3f}{worst:>15}"
            f"{entry['nll_p95']:8.3f}{entry['top1']:7.3f}{entry['kl']:7.3f}"
            f"{entry['accuracy']:8.3f}{entry['accuracy_se']:6.3f}"
            f"{entry['accuracy_difference']:+11.3f}{entry['accuracy_difference_se']:6.3f}"
        )
    if found["formats_note"]:
        shown.append(f"formats: {found['formats_note']}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keys", action="store_true", help="print the sets' keys and stop")
    parser.add_argument("--table", default=NAME, help="a shipped table's name, or a path")
    parser.add_argument("--choices", type=Path, default=CHOICES)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    table = QualityTable.load(arguments.table)
    if arguments.keys:
        print(" ".join(dict.fromkeys(each.key for each in harm.main_sets(table))))
        return
    found = judged(table, arguments.choices.resolve())
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(found, indent=2) + "\n").encode())
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
