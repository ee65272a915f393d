"""The table of discounts: the spread of the seeds, beside what costs nothing to learn."""

from rapgym.studies.pages import discount


def test_seeds_are_a_range_and_what_needs_no_training_stands_beside() -> None:
    trained = [{"gamma": 0.5, "normalised": "both", "costs": [0.3, 0.1, 0.2]}]
    found = {"scenarios": {"toy": {"beside": {"keep-all": 0.25}, "trained": trained}}}
    *_, beside, learned = discount.page(found).splitlines()
    assert [cell.strip() for cell in beside.strip("|").split("|")] == [
        "`toy`",
        "`keep-all`",
        "",
        "0.2500",
    ]
    assert [cell.strip() for cell in learned.strip("|").split("|")] == [
        "`toy`", "PPO, gamma 0.5", "both", "0.1000 to 0.3000",
    ]  # fmt: skip
