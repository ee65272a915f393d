"""What the scores become where one number of a scenario is another: `results/sensitivity.json`.

`python -m rapgym.studies.sensitivity --scenario chat-gqa --field restore_s --out FILE` measures a part.
A run that was stopped goes on where it stopped.
"""

import argparse
import json
from pathlib import Path

from rapgym.bench import sensitivity
from rapgym.files import places, writing
from rapgym.jobs import parallel
from rapgym.report import sensitivity as sensitivity_report
from rapgym.scenarios import catalogue

OUT = places.RESULTS / "sensitivity.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", action="append", metavar="NAME", help="all unless named")
    parser.add_argument("--field", action="append", metavar="NAME", help="all unless named")
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="FILE", help=f"default: {OUT.name}"
    )
    parser.add_argument("--jobs", type=int, default=parallel.processors(), metavar="N")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    arguments = parser.parse_args()
    wanted = [
        variant
        for name in arguments.scenario or sensitivity.SCENARIOS
        for variant in sensitivity.variants(catalogue.scenario(name), arguments.field)
    ]
    work = arguments.out.with_suffix(".work.jsonl")
    found = sensitivity.run(wanted, work, jobs=arguments.jobs, quiet=arguments.quiet)
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    print(sensitivity_report.table(found))


if __name__ == "__main__":
    main()
