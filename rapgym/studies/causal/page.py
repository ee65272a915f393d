"""How much of foresight is knowable, as Markdown."""

from collections.abc import Iterable, Mapping
from typing import Any

from rapgym.report.markdown import table

Found = Mapping[str, Any]


def section(found: Found) -> str:
    """The comparison on each scenario's twin, without a heading."""
    return "\n\n".join(
        [_told(found), _scores(found), _short(found), _likeness(found), _others(found)]
    )


def sentence(found: Found) -> str:
    """What is knowable, and how much of it policies reach, in one paragraph."""
    causal = found["names"]["causal"]
    twins = [one["twin"]["policies"] for one in found["scenarios"]]
    gaining = [policies for policies in twins if policies[causal]["low"] > 0]
    said = [
        "**What can be known**: a twin is a synthetic copy of a scenario whose distribution of futures is known. "
        f"On {len(gaining)} of {len(twins)} twins a controller that is given that distribution costs less than the lookup"
    ]
    if gaining:
        said.append(
            f" and reaches {_range(p[causal]['foresight'] for p in gaining)} of 100 points of foresight"
        )
    shares = {
        name: [p[name]["share"] for p in gaining if "share" in p.get(name, {})]
        for name in ("forecast", "hindsight")
    }
    said += [f"; `{name}` reaches {_range(of)} % of that" for name, of in shares.items() if of]
    if len(gaining) < len(twins):
        said.append(
            ". On the others knowing it is not told from deciding by the lookup, or costs more"
        )
    said.append(
        ". The rest is for who knows the future itself. Twins are made by nearest neighbours, as `forecast` "
        "predicts, which favours it there."
    )
    return "".join(said)


def _range(values: Iterable[float]) -> str:
    ends = sorted(values)
    return f"{ends[0]:.0f} to {ends[-1]:.0f}"


def _told(found: Found) -> str:
    return (
        f"Made by `{found['command']}`. A twin is drawn from a Markov chain over a scenario's train rows, so "
        "that of each of its moments it is known what may follow. `causal` is a controller that is given that "
        f"distribution ({found['futures']} futures at each row, the cost of each set in each of them, and what "
        "the next row pays to bring blocks back as a good simple controller would pay it): a score that a "
        "causal controller reaches. `at most` is what the best one that chooses from the frontier can have, by "
        "information relaxation, as far as the sampled futures tell. Policies see the past alone and are tuned or trained on the twin's train part. "
        "Foresight: 0 the lookup, 100 the bound, which knows the future; `share` is of the causal controller's. Decisions "
        "read calibration columns and scores test columns: where `at most` lies below 0, what the two say of the sets "
        "differs by more than there is to know."
    )


def _scores(found: Found) -> str:
    names = [*found["heuristics"], *found["learned"]]
    rows = []
    for one in found["scenarios"]:
        twin = one["twin"]
        causal = twin["policies"][found["names"]["causal"]]
        cells = [
            f"`{one['scenario']}`",
            f"{causal['foresight']:.0f} [{causal['low']:.0f}, {causal['high']:.0f}]",
            f"{causal['foresight'] + twin['causal_gap']:.1f}",
        ]
        for name in names:
            each = twin["policies"].get(name)
            cells.append("-" if each is None else _share(each))
        rows.append(cells)
    heads = ("twin of", "causal [95 %]", "at most", *(f"`{name}`, share [95 %]" for name in names))
    return table(heads, rows)


def _share(each: Mapping[str, float]) -> str:
    if "share" not in each:
        return f"{each['foresight']:.0f}"
    ends = f"[{each['share_low']:.0f}, {each['share_high']:.0f}]"
    return f"{each['foresight']:.0f}, {each['share']:.0f} % {ends}"


def _short(found: Found) -> str:
    rows = []
    for one in found["scenarios"]:
        for name, each in one["twin"]["short"].items():
            rows.append(
                [
                    f"`{one['scenario']}`",
                    f"`{name}`",
                    f"{one['twin']['short_rows']}",
                    f"{each['foresight']:.0f} ({each['least']:.0f} to {each['greatest']:.0f})",
                    f"{each['share']:.0f} %" if "share" in each else "-",
                ]
            )
    told = (
        "With a train part no longer than the trace's own, on the same test part; the mean over "
        f"{len(found['short_seeds'])} such parts, the least and the greatest:"
    )
    heads = ("twin of", "policy", "rows", "foresight", "share")
    return told + "\n\n" + table(heads, rows, left=2)


def _likeness(found: Found) -> str:
    """How like a twin is to its trace."""
    rows = []
    for one in found["scenarios"]:
        for what, stats in (
            ("trace", one["trace"]["statistics"]),
            ("twin", one["twin"]["statistics"]),
        ):
            rows.append(
                [
                    f"`{one['scenario']}`",
                    what,
                    f"{stats['tenant_mean']:,} ± {stats['tenant_deviation']:,}",
                    ", ".join(f"{value:.2f}" for value in stats["tenant_autocorrelation"]),
                    ", ".join(f"{value:,}" for value in stats["rise_within_row"]),
                    f"{stats['demand_mean']:,} ± {stats['demand_deviation']:,}",
                    ", ".join(f"{value:.2f}" for value in stats["demand_autocorrelation"]),
                ]
            )
    told = (
        "How like they are (train part of the trace, the whole twin): tokens of the tenant, mean and deviation, "
        "their autocorrelation, quantiles of their rise within a row; tokens of the demand likewise. Demand "
        "forgets sooner in a twin than in its trace, and the twin's hour is another draw: what it says is how "
        "much *such* traffic lets one know, not what this trace would have."
    )
    heads = ("scenario", "", "tenant", "its autocorrelation", "its rise within a row", "demand",
             "its autocorrelation")  # fmt: skip
    return told + "\n\n" + table(heads, rows, left=2)


def _others(found: Found) -> str:
    """What the choice of neighbours does to the answer."""
    causal, rows = found["names"]["causal"], []
    for one in found["scenarios"]:
        for twin in (one["other_neighbours"][0], one["twin"], *one["other_neighbours"][1:]):
            policies = twin["policies"]
            rows.append(
                [
                    f"`{one['scenario']}`",
                    f"{twin['neighbours']}",
                    f"{policies[causal]['foresight']:.0f}",
                    _share(policies["forecast"]),
                ]
            )
    told = (
        "A twin follows its trace the more closely the fewer moments count as like another; the middle number "
        "predicts the trace best:"
    )
    heads = ("twin of", "neighbours", "causal foresight", "`forecast`, share")
    return told + "\n\n" + table(heads, rows)
