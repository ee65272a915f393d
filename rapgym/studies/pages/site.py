"""What the site shows without any result: environments, drawings, hours of scenarios, notebook.

    python -m rapgym.studies.pages.site [--check]

With --check nothing is written, and the exit code says whether all is what it would become. `make readme`
makes these too.
"""

import sys
from pathlib import Path

from rapgym.files import places
from rapgym.scenarios import catalogue
from rapgym.scenarios.story import Scenario
from rapgym.studies.pages import (
    environments,
    machine,
    marks,
    notebook,
    scenario_figure,
    verdict_figure,
)

DOCS = places.PACKAGE.parent / "docs"
MACHINE = DOCS / "figures" / "watchdog.svg"
VERDICTS = DOCS / "figures" / "verdicts.svg"
TOUR = DOCS / "tour.md"
COMMAND = "python -m rapgym.studies.pages.site"


def parts() -> dict[str, str]:
    """Every part of a page that follows from code and series alone."""
    return {
        "rap-v0": environments.rap(),
        "rap-serve-v0": environments.serve(),
        "observation": environments.observation(),
        "serving-observation": environments.serving_observation(),
        "serving-scenarios": environments.serving_scenarios(),
        "watchdog": f"![The state machine of the watchdog. {machine.told()}](figures/{MACHINE.name})",
        "hours": hours(),
        "verdicts": f"![Four verdicts. {verdict_figure.told()}](figures/{VERDICTS.name})",
    }


def hours() -> str:
    """A picture of each scenario of an hour."""
    shown = []
    for story in catalogue.by_default():
        found = scenario_figure.hour(story)
        shown.append(f"![{scenario_figure.told(story, found)}](figures/{_hour_file(story).name})")
    return "\n\n".join(shown)


def _hour_file(story: Scenario) -> Path:
    return DOCS / "figures" / f"hour-{story.name}.svg"


def files() -> dict[Path, str]:
    """Every file that is generated whole."""
    return {
        MACHINE: machine.drawn(),
        VERDICTS: verdict_figure.drawn(),
        **{
            _hour_file(story): scenario_figure.drawn(story, scenario_figure.hour(story))
            for story in catalogue.by_default()
        },
        TOUR.with_suffix(".ipynb"): notebook.notebook(TOUR.read_text()),
    }


def main() -> int:
    made = parts()
    found = {path: path.read_text() for path in sorted(DOCS.glob("*.md"))}
    own = {path: text for path, text in found.items() if {*marks.marked(text)} & {*made}}
    pages = {path: marks.filled(text, _kept(text) | made) for path, text in own.items()}
    return marks.settled(pages | files(), check="--check" in sys.argv[1:], command=COMMAND)


def _kept(text: str) -> dict[str, str]:
    """Every part of a page as it stands."""
    return {name: marks.part(text, name) for name in marks.marked(text)}


if __name__ == "__main__":
    sys.exit(main())
