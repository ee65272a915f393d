"""The serving study's tables: costs, verdicts, and the point that was taken."""

from rapgym.studies.pages import serving

RULE = {
    "cost": 0.2, "low": 0.1, "high": 0.3, "nats": 0.05, "undelivered": 0.04, "goodput": 0.9,
    "ttft_s": 1.25, "tpot_s": 0.0325, "attention": 3.0, "ffn": 1.5, "settings": {"margin": 0.01},
}  # fmt: skip


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rules_stand_by_cost_with_a_verdict_beside_the_lookup() -> None:
    less = {"value": -0.05, "low": -0.08, "high": -0.01}
    told_apart_not = {"value": 0.1, "low": -0.1, "high": 0.3}
    entry = {
        "scenario": "serve-toy-v0",
        "rules": {"lookup": RULE, "engine": RULE | {"cost": 0.3}, "hurry": RULE | {"cost": 0.15}},
        "against_lookup": {"engine": told_apart_not, "hurry": less},
    }
    lines = serving.findings({"scenarios": [entry]}).splitlines()
    assert lines[0] == "**`serve-toy-v0`**"
    rows = [cells(line) for line in lines[4:]]
    assert [row[0] for row in rows] == ["`hurry`", "`lookup`", "`engine`"]
    assert rows[0][2] == "-0.0500 [-0.0800, -0.0100] less"
    assert rows[1][2] == ""
    assert rows[2][2].endswith("not told apart")
    assert rows[1][5:9] == ["90.0%", "1.25", "32.5", "3.0 / 1.5"]
    assert serving.verdict({"low": 0.01, "high": 0.02}) == "more"


def test_searches_stand_beside_rules_on_the_same_stretches() -> None:
    stretches = {
        "parts": [{"seconds": 600}, {"seconds": 600}],
        "rules": {"lookup": RULE},
        "searches": {"plan-10": RULE | {"cost": 0.01}},
    }
    entry = {"scenario": "s-v0", "rules": {}, "against_lookup": {}, "stretches": stretches}
    text = serving.findings({"scenarios": [entry]})
    assert "2 stretches of test, 1,200 s" in text
    assert text.index("plan-10, knows the future") < text.index("`lookup`")


def test_the_point_that_was_taken_is_marked() -> None:
    costs = {"engine": 0.3, "keep-all-drop": 0.25, "lookup": 0.2}
    point = {"scenario": "s-v0", "card_gib": 40.0, "every": 2, "costs": costs, "why_not": None}
    other = point | {"card_gib": 41.0, "why_not": "too easy: so"}
    found = {
        "rule": "The rule.",
        "chosen": {"s-v0": {"card_gib": 40.0, "every": 2}},
        "entries": [point, other],
    }
    *_, taken, left = serving.chosen(found).splitlines()
    assert cells(taken) == ["`s-v0`", "2", "40 (taken)", "0.3000", "0.2500", "0.2000", "passes"]
    assert cells(left)[2:] == ["41", "0.3000", "0.2500", "0.2000", "too easy: so"]
    assert "(taken)" not in serving.chosen(found | {"chosen": {"s-v0": None}})
