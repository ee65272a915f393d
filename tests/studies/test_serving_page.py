"""The serving study's tables: costs, verdicts, and the point that was taken."""

from report_pages import LATENCY, LATENCY_CELLS

from rapgym.quality.history import Share
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
    assert rows[2][2].endswith("undecided")
    assert rows[1][5:9] == ["90.0%", "1.25", "32.5", "3.0 / 1.5"]
    assert serving.verdict({"low": 0.01, "high": 0.02}) == "more"


def test_percentiles_stand_below_where_the_study_has_them() -> None:
    entry = {
        "scenario": "s-v0",
        "rules": {"lookup": RULE | LATENCY, "engine": RULE},
        "against_lookup": {},
    }
    *_, row = serving.findings({"scenarios": [entry]}).splitlines()
    # Goodput is this rule's own, 90 %.
    assert cells(row) == ["`lookup`", *LATENCY_CELLS[:3], "90.0%", *LATENCY_CELLS[4:]]
    without = entry | {"rules": {"engine": RULE}}
    assert "Percentiles" not in serving.findings({"scenarios": [without]})


def test_a_scenario_has_a_line_and_verdicts_are_counted_where_there_are_intervals() -> None:
    more, less = (
        {"value": sign * 0.1, "low": sign * 0.1 - 0.05, "high": sign * 0.1 + 0.05}
        for sign in (1, -1)
    )
    rules = dict.fromkeys(("engine", "keep-all-drop", "fixed", "lookup", "hurry", "futures"), RULE)
    rules["hurry"] = RULE | {"cost": 0.1234}
    against = {"engine": more, "keep-all-drop": more, "fixed": less, "hurry": less, "futures": more}
    stretches = {
        "rules": {"lookup": RULE},
        "searches": {"a": RULE, "b": RULE | {"cost": 0.07}},
        "parts": [],
    }
    patient = {"engine-tuned": more, "keep-all-tuned": more}
    for name, waits_s in (("engine-tuned", 4.0), ("keep-all-tuned", 8.0), ("lookup-tuned", 0.5)):
        rules[name] = RULE | {"cost": 0.11, "settings": {"shed_s": waits_s}}
    entry = {
        "scenario": "s-v0",
        "claims": True,
        "rules": rules,
        "against_lookup": against,
        "patient_against_lookup": patient,
        "stretches": stretches,
    }
    none = {"value": 0.1, "low": None, "high": None}
    alone = entry | {
        "scenario": "hour-v0",
        "rules": {name: rule | {"low": None, "high": None} for name, rule in rules.items()},
        "against_lookup": dict.fromkeys(against, none),
        "patient_against_lookup": dict.fromkeys(patient, none),
    }
    silent = entry | {"scenario": "silent-v0", "claims": False}
    text = serving.brief({"scenarios": [entry, alone, silent]})
    assert "- `silent-v0`: train had no card and load with enough to decide" in text
    row = cells(text.splitlines()[2])
    assert row == [
        "`s-v0`", "0.2000, more", "0.2000, more", "0.2000, less", "0.2000", "`hurry` 0.1234, less", "0.2000", "0.0700",
    ]  # fmt: skip
    assert "- The engine of today costs more than the lookup on 1 of 1 scenarios with int" in text
    assert (
        "- One pair of counts for good, the best on train, costs more than the lookup on 0" in text
    )
    assert "- `hour-v0`: a case study" in text
    said = serving.sentence({"scenarios": [entry, alone, silent]})
    assert "saves 0.100 [0.050, 0.150] on `s` (0.100 [0.050, 0.150]); in brackets where" in said
    assert "hour" not in said.removesuffix(" Intervals by hours.")
    assert "silent" not in said
    assert "deciding ahead pays" in said
    unsure = entry | {"against_lookup": against | {"keep-all-drop": less}}
    assert "pays" not in serving.sentence({"scenarios": [entry, unsure]})
    impatient = entry | {"patient_against_lookup": patient | {"keep-all-tuned": less}}
    assert "pays" not in serving.sentence({"scenarios": [impatient]})
    assert "| `s-v0` | 0.1100, more (4 s) | 0.1100, more (8 s) | 0.1100 (0.5 s) |" in text
    assert "more than the patient lookup on 1 of 1 scenarios with intervals, less on 0." in text
    assert cells(text.splitlines()[3])[5] == "`hurry` 0.1234"


def test_what_stays_of_a_drop_stands_with_its_error() -> None:
    text = serving.shares([Share("ffn", 4, 0.45, 0.06, 0.38, 0.1333, 0.0181)])
    assert cells(text.splitlines()[-1]) == ["ffn", "4", "0.450", "0.060", "0.380", "0.13 (0.02)"]


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
