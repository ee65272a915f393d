"""What is said of intervals: the least and the most of the file, of made rows with enough pieces alone."""

from rapgym.studies.pages import coverage

DAYS = [{"stretch_s": 600, "coverage": 0.2}, {"stretch_s": 7200, "coverage": 0.614}]
MADE = [
    {"pieces": 5.0, "coverage": 0.5, "false": 0.5, "found": 0.1},
    {"pieces": 7.9, "coverage": 0.93, "false": 0.03, "found": 0.7},
    {"pieces": 30.0, "coverage": 0.95, "false": 0.06, "found": 0.8},
]


def test_stretches_are_said_with_their_lengths_and_rows_with_few_pieces_are_left_out() -> None:
    days, made = coverage.page({"days": DAYS, "made": MADE}).splitlines()
    assert (
        "interval of 10 minutes to 2 hours covers the difference of the whole day in 20 to 61 %"
        in days
    )
    assert "alike and 8 or more, intervals cover the truth in 93 to 95 %" in made
    assert "without any difference in 3 to 6 %" in made
    assert "is found in 70 to 80 %" in made
