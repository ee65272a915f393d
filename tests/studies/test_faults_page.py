"""The table of policies that go bad: ranges over scenarios, what exceeds 5 %, and nats where shares mislead."""

from typing import Any

from rapgym.studies.pages import faults


def pair(alone: float, watched: float) -> dict[str, Any]:
    """All rows at half of what the rows from the fault on cost."""
    return {
        "alone": {"calib": alone / 2, "calib_after": alone},
        "watched": {"calib": watched / 2, "calib_after": watched},
    }


def found() -> dict[str, Any]:
    scenarios = {
        "calm": {
            "reference": {"calib_after": 0.001},
            "faults": {"frozen": pair(9.0, 4.0), "foreign": pair(3.0, 1.0)},
            "prices": {"good": pair(0.8, 0.9), "plain": pair(1.0, 1.0), "random": pair(8.0, 2.0)},
        },
        "busy": {
            "reference": {"calib_after": 0.1},
            "faults": {"frozen": pair(2.0, 1.04)},
            "prices": {"good": pair(0.8, 0.8)},
        },
    }
    return {"split": "test", "good_policy": "good", "scenarios": scenarios}


def test_a_fault_has_the_range_of_its_scenarios_and_the_most_nats() -> None:
    text = faults.page(found())
    assert "| frozen | 0.52 to 2.00 | 1.04 to 4.00 | 2.00 to 9.00 | +0.0040 |" in _plain(text)
    assert "| foreign | 0.50 to 0.50 | 1.00 to 1.00 | 3.00 to 3.00 | +0.0000 |" in _plain(text)


def test_cases_within_5_percent_are_counted_over_all_rows_and_from_the_fault_on() -> None:
    text = faults.page(found())
    assert "over all rows in 2 of 3 cases, and counted from the fault on in 2;" in text


def test_the_price_is_of_policies_it_adds_to_alone() -> None:
    text = faults.page(found())
    assert "at most 5.0 to `good`; nothing to 2 policies." in text


def _plain(text: str) -> str:
    """Cells without the spaces that line them up."""
    return "\n".join(
        "| " + " | ".join(cell.strip() for cell in line.strip("|").split("|")) + " |"
        for line in text.splitlines()
    )
