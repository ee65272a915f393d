"""Which discount and normalisation suited a learner of others, in a table."""

from typing import Any

from rapgym.report.markdown import table


def page(found: dict[str, Any]) -> str:
    """Costs on check rows, the least and the most of the seeds, beside what costs nothing to learn."""
    rows = []
    for scenario, each in found["scenarios"].items():
        rows += [
            [f"`{scenario}`", f"`{name}`", "", f"{cost:.4f}"]
            for name, cost in each["beside"].items()
        ]
        for case in each["trained"]:
            low, *_, high = sorted(case["costs"])
            rows.append(
                [
                    f"`{scenario}`",
                    f"PPO, gamma {case['gamma']:g}",
                    case["normalised"],
                    f"{low:.4f} to {high:.4f}",
                ]
            )
    heads = ("scenario", "policy", "normalised", "cost on check rows, nats")
    return table(heads, rows, left=3)
