"""A bench of the toy scenario for tests of reports, and what a browser's parser makes of a page."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world

from rapgym.bench import run as bench_run
from rapgym.bench import scoreboard
from rapgym.bench.results import Results
from rapgym.model import blocks
from rapgym.policies import registry
from rapgym.scenarios.story import Scenario

POLICIES = ["keep-all", "frontier", "partial-admission"]
# What a rule of serving.json says of latency; those of an earlier study say nothing.
LATENCY = {
    "ttft_p50_s": 0.1, "ttft_p95_s": 1.25, "ttft_p99_s": 2.5, "tpot_p50_s": 0.02, "tpot_p95_s": 0.025,
    "tpot_p99_s": 0.04, "e2e_p50_s": 5.0, "e2e_p95_s": 20.0, "e2e_p99_s": None, "ttft_met": 0.97,
    "tpot_met": 0.98, "late": 0.01, "shed": 0.02, "lost": 0.001, "preempted": 0.03,
}  # fmt: skip
LATENCY_CELLS = ["0.10 / 1.25 / 2.50", "20.0 / 25.0 / 40.0", "5.00 / 20.00 / -", "70.0%", "97.0%", "98.0%",
                 "1.0%", "2.0%", "0.1%", "3.0%"]  # fmt: skip


def toy_bench(story: Scenario, out: Path, patch: pytest.MonkeyPatch) -> Results:
    """Results of the toy scenario, written to `out`."""
    kept = {"kept": blocks.key(np.array([1, 1, 1, 1, 0, 0], dtype=bool))}
    found = toy_world.tuned(story, kept)
    patch.setattr(registry, "tuned", lambda: {"static-best-repaired": {story.id: found}})
    return bench_run.run([story], POLICIES, out, summary=scoreboard.summed_up, quiet=True)


class Parsed(HTMLParser):
    """Elements, texts and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = attrs, text + data
        elif self._inside != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def attributes(self) -> list[tuple[str, str | None]]:
        return [each for _, attrs in self.elements for each in attrs.items()]

    def data(self, anchor: str) -> Any:
        """The JSON of this id."""
        return json.loads(next(text for attrs, text in self.scripts if attrs.get("id") == anchor))

    def run(self) -> list[str]:
        """Scripts that a browser runs: at once, or Plotly's once a figure is wanted."""
        return [
            text
            for attrs, text in self.scripts
            if "type" not in attrs or attrs == {"type": "text/plain", "id": "plotly"}
        ]


def _policy(cost: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    gain = {"gain": 50.0, "gain_low": 40.0, "gain_high": 60.0, "foresight": None}
    return {"cost": cost, "low": low, "high": high} | gain


def studies(scenario: str, rule: str = "engine") -> dict[str, Any]:
    """Small studies as they lie beside a results file, by the file's name.

    Args:
        scenario, rule: names in them.
    """
    policies = {
        "frontier": _policy(0.2),
        "frontier-margin": _policy(0.19, -0.03, 0.01),
        "forecast": _policy(0.25, 0.02, 0.09),
        "bound": _policy(0.1),
    }
    entry = {
        "scenario": scenario,
        "field": "",
        "value": None,
        "dense_fits": 0.5,
        "policies": policies,
    }
    changed = entry | {"field": "restore_s", "value": 8.0}
    costs = {"cost": 0.4, "low": 0.3, "high": 0.6, "nats": 0.1, "undelivered": 0.2, "goodput": 0.7,
             "ttft_s": 1.5, "tpot_s": 0.04, "preemptions": 0.3}  # fmt: skip
    less = {"value": 0.2, "low": 0.1, "high": 0.3}
    lookup = costs | {"cost": 0.2, "low": 0.15, "high": 0.25} | LATENCY
    measures = {"ttft_mean_s": {"measured": 2.0, "simulated": 2.01, "error": 0.005},
                "tpot_mean_s": {"measured": 0.04, "simulated": 0.0396, "error": -0.01},
                "e2e_mean_s": {"measured": 9.0, "simulated": 9.09, "error": 0.01}}  # fmt: skip
    return {
        "sensitivity.json": {"tuning_pairings": 4, "skipped": [], "entries": [entry, changed]},
        "serving.json": {
            "scenarios": [
                {
                    "scenario": scenario,
                    "rules": {rule: costs, "lookup": lookup},
                    "against_lookup": {rule: less},
                }
            ]
        },
        "fidelity.json": [{"run": rule, "measures": measures}],
    }


def write_studies(folder: Path, found: dict[str, Any]) -> None:
    """Lay studies beside a results file."""
    for name, content in found.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
