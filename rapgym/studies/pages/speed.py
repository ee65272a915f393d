"""What a step and a decision take, in tables."""

from typing import Any

from rapgym.report.markdown import table

BESIDE = (" (watchdog)", " (audit log)")  # as `benchmarks/decisions.py` names them


def steps(found: dict[str, Any]) -> str:
    """Rate of each environment over that of Gymnasium's CartPole, by lanes."""
    rows = [
        [lanes, f"`{name}`", f"{each['mean_us']:,.1f}", f"{each['of_peer_mean']:.3f}"]
        for lanes, part in found["lanes"].items()
        for name, each in part.items()
    ]
    heads = ("lanes", "environment", "a step of all lanes, us", "rate over CartPole's")
    return f"{table(heads, rows, left=2)}\n\n{_of_all(found)}{_measured_on(found)}"


def _of_all(found: dict[str, Any]) -> str:
    most = max(int(lanes) for lanes in found["lanes"])
    said = [
        f"`{name}` {each['reset_us'] / 1000:.1f} ms and {each['added_mib']:.0f} MiB"
        for name, each in found["of_all"].items()
    ]
    return (
        f"A reset of all of {most:,} lanes, and what they add to memory: {'; '.join(said)}.\n\n"
        if said
        else ""
    )


def decisions(found: dict[str, Any]) -> str:
    """Microseconds of a decision in a loop and in turns: at the median and once in a hundred, and at the median
    with what can stand beside it."""
    rows = []
    for scenario, in_turns in found["microseconds"].items():
        in_a_loop = found.get("in_a_loop", {}).get(scenario, {})
        for policy in (name for name in in_turns if not name.endswith(BESIDE)):
            each = [f"`{scenario}`", f"`{policy}`"]
            for times in (in_a_loop, in_turns):
                asked = [
                    (policy, "p50"),
                    (policy, "p99"),
                    *((f"{policy}{how}", "p50") for how in BESIDE),
                ]
                each += [f"{times[name][q]:.0f}" if name in times else "-" for name, q in asked]
            rows.append(each)
    shares = ("p50", "p99", "p50 with watchdog", "p50 with audit log")
    heads = [f"{way}: {share}" for way in ("loop", "turns") for share in shares]
    return f"{table(('scenario', 'policy', *heads), rows, left=2)}\n\n{_measured_on(found)}"


def measuring(found: dict[str, Any]) -> str:
    """How many times as fast as a plain loop `rapgym measure` is, by design, and on what share of the machine."""
    rows = [
        [
            f"`{name}`", f"{each['measurements']:,}", f"{each['plain_s']:.2f}", f"{each['ours_s']:.2f}",
            f"{each['times_as_fast']:.2f}", f"{each['share_of_product']:.0%}",
        ]
        for name, each in found["designs"].items()
    ]  # fmt: skip
    heads = (
        "design", "sequences of each domain in a whole table", "plain loop, s a set",
        "rapgym measure, s a set", "times as fast", "of a matrix product's rate",
    )  # fmt: skip
    around = found["surroundings"]
    return (
        f"{table(heads, rows, left=1)}\n\nA whole table: **{found['whole_times_as_fast']:.2f} times as fast**.\n\n"
        f"Measured on {around['device']}, {around['threads']} thread, {found['dtype']}, torch "
        f"{around['packages']['torch']}, transformers {around['packages']['transformers']}, at {_commit(found)}."
    )


def _measured_on(found: dict[str, Any]) -> str:
    beside = "".join(f", {name} {version}" for name, version in found.get("peers", {}).items())
    return f"Measured on one core, {found['machine']}, Python {found['python']}{beside}, at {_commit(found)}."


def _commit(found: dict[str, Any]) -> str:
    told = found["commit"]
    return f"`{told[:7]}`" if told else "no commit"
