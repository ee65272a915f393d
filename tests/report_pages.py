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
