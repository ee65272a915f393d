"""The comparison of predictors as Markdown: every figure and every sentence from its results file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rapgym.report.markdown import table
from rapgym.studies.predictors.scores import GOAL_MEDIAN, GOAL_SPEARMAN, REFERENCE, goal, verdict

Found = Mapping[str, Any]
BELOW = "below_2_nats"
TEXTS = {"calib": "Calibration columns", "test": "Test columns alone"}
WHAT = {
    "shipped": "the package's Gaussian process: effects, pairs of near layers, a local part",
    "shipped + link": "the same behind a link that bends the sum",
    "sum of singles": "single removals added up, nothing fitted",
    "fitted sum": "a fitted effect of each block",
    "fitted sum + link": "the same behind a link",
    "pairs + link": "effects of blocks and of all pairs, behind a link",
    "pairs + link + local": "the same and the shipped one's local part",
    "low rank": "effects and pairs through 1 to 8 factors, behind a link",
    "network": "four networks of two hidden layers (a deep set over dropped blocks), averaged",
    "nearest": "the weighted mean of the nearest measured sets",
    "nearest + singles": "the same, moved by the single costs of the blocks that differ",
    "boosted trees": "boosted trees on top of the fitted sum",
    "mean of four": "of shipped, pairs + link, low rank and network",
    "shipped from calibration": "what test columns add to calibration columns, as the package does "
    "(test columns alone; sets held out are unknown in both)",
}


def section(found: Found) -> str:
    """The comparison, without a heading."""
    return "\n\n".join(
        [
            _protocol(found),
            _kinds(found),
            *(_split(found, split) for split in TEXTS),
            _unseen(found),
            _curve(found),
        ]
    )


def _protocol(found: Found) -> str:
    return (
        f"Made by `{found['command']}` from the measured sets of `{found['table']['name']}`. A kept "
        f"set is predicted by fits that have not seen it: of each design a part in {found['folds']} "
        f"is held out at once, {found['repeats']} times with other parts, the same for every kind; a "
        "kind chooses its settings inside the rows that it is given. Nats a token above dense, mean "
        "of the domains, sets that cost under 2 nats; in brackets 95 % intervals of a bootstrap over "
        "sets, not corrected for the number of kinds. Goal: yes or no where the whole interval says so, else "
        "open. Beside shipped: by mean absolute error on the same sets; a tie where the interval of the "
        "difference holds zero. Measured rows carry a standard error of their "
        f"own (median {found['splits']['calib']['median_se']:.3f} nats on calibration text), which "
        "all sets of one text share in part."
    )


def _kinds(found: Found) -> str:
    names = dict.fromkeys(name for split in TEXTS for name in _kinds_of(found, split))
    return "\n".join(f"- {name}: {WHAT[name]}" for name in names)


def _kinds_of(found: Found, split: str = "calib") -> dict[str, Any]:
    kinds: dict[str, Any] = found["splits"][split]["kinds"]
    return kinds


def entries(kind: Found) -> dict[str, Any]:
    """Design -> its entry, of sets under 2 nats."""
    return {e["design"]: e for e in kind["held_out"] if e["part"] == BELOW}


def _with_interval(value: Sequence[float], digits: int) -> str:
    return f"{value[0]:.{digits}f} [{value[1]:.{digits}f}, {value[2]:.{digits}f}]"


def _split(found: Found, split: str) -> str:
    part = found["splits"][split]
    kinds = _kinds_of(found, split)
    designs = [*entries(next(iter(kinds.values())))]
    heads = ["kind"]
    heads += [f"{d}: {what}" for d in designs for what in ("Spearman", "median error")]
    heads += [f"{what}: {', '.join(designs)}" for what in ("goal", "beside shipped")]
    rows = []
    for name, kind in kinds.items():
        cells = []
        for entry in entries(kind).values():
            cells.append(_with_interval(entry["spearman"], 3))
            cells.append(_with_interval(entry["median_abs"], 3))
        cells.append(", ".join(goal(entry) for entry in entries(kind).values()))
        verdicts = [verdict(e, "mean_abs") for e in entries(kind).values() if "less_shipped" in e]
        cells.append(", ".join(verdicts) or "-")
        times = (
            f"{kind['fit_s']:.2g}",
            f"{1e3 * kind['one_s']:.2g}",
            f"{1e3 * kind['thousand_s']:.2g}",
        )
        rows.append([name, *cells, *times])
    told = (
        f"{TEXTS[split]}: {part['rows']['own_text']} sets measured on this text and "
        f"{part['rows']['other_text']} on others; held out below 2 nats: "
        + ", ".join(f"{e['sets']} {d}" for d, e in entries(kinds[REFERENCE]).items())
        + "."
    )
    shown = table([*heads, "fit, s", "one set, ms", "1,000 sets, ms"], rows)
    lines = "\n".join(f"- {sentence}" for sentence in sentences(found, split))
    return f"{told}\n\n{shown}\n\n{lines}"


def sentences(found: Found, split: str) -> list[str]:
    """Which kinds reach the goal, and which do better than the shipped predictor somewhere."""
    kinds = _kinds_of(found, split)
    designs = [*entries(kinds[REFERENCE])]
    by_design = [
        f"`{d}` by " + _names(n for n, k in kinds.items() if goal(entries(k)[d]) == "yes")
        for d in designs
    ]
    plain = [
        f"`{d}` by " + _names(n for n, k in kinds.items() if _at_point(entries(k)[d]))
        for d in designs
    ]
    lines = [
        f"The goal, Spearman {GOAL_SPEARMAN:g} and a median error of {GOAL_MEDIAN:g} nats, is reached "
        f"with the whole interval on {'; '.join(by_design)}. By the plain figures: "
        f"{'; '.join(plain)}.",
    ]
    smaller, never_larger = [], []
    for name, kind in kinds.items():
        if name == REFERENCE:
            continue
        verdicts = {d: verdict(entries(kind)[d], "mean_abs") for d in designs}
        for d, said in verdicts.items():
            if said == "better":
                less = _with_interval(entries(kind)[d]["less_shipped"]["mean_abs"], 4)
                smaller.append(f"{name} on `{d}` ({less} nats)")
        if "worse" not in verdicts.values():
            never_larger.append(name)
    lines.append(
        f"Mean error less than the shipped predictor's on the same sets: {_names(smaller)}. No larger "
        f"in any design, ties included: {_names(never_larger)}."
    )
    return lines


def _at_point(entry: Found) -> bool:
    spearman, median = entry["spearman"][0], entry["median_abs"][0]
    return bool(spearman >= GOAL_SPEARMAN and median <= GOAL_MEDIAN)


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "no kind"


def _unseen(found: Found) -> str:
    by_kind = found["splits"]["calib"]["unseen_design"]
    rows = []
    for name, each in by_kind.items():
        below = [e for e in each if e["part"] == BELOW]
        cells = [f"{e['spearman'][0]:.3f}, {_with_interval(e['median_abs'], 3)}" for e in below]
        rows.append([name, *cells])
        heads = ["kind", *(e["design"] for e in below)]
    told = (
        "A whole design held out (calibration columns): the fit has seen no set that was drawn in "
        "this way. Spearman, median error:"
    )
    return f"{told}\n\n" + table(heads, rows)


def _curve(found: Found) -> str:
    steps = found["splits"]["calib"]["curve"]
    names = [*steps[0]["kinds"]]
    rows = [
        [name, *(_with_interval(step["kinds"][name]["mean_abs"], 3) for step in steps)]
        for name in names
    ]
    heads = ["kind", *(f"{s['fitting_rows']} ({s['of_own_text']})" for s in steps)]
    last, before = (steps[i]["kinds"][REFERENCE]["mean_abs"][0] for i in (-1, -2))
    told = (
        "When fewer sets are measured (calibration columns): mean absolute error on the held-out sets "
        f"under 2 nats of all designs together ({steps[0]['sets']}), by the number of sets that a fit "
        "is given (in brackets those on the text answered for; the dense set and the single removals "
        "are always among them). The last doubling takes the shipped predictor from "
        f"{before:.3f} to {last:.3f}, {1 - last / before:.0%} less. Nothing is extrapolated to tables "
        "of tens of thousands of sets: none has been measured."
    )
    return f"{told}\n\n" + table(heads, rows)
