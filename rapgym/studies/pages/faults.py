"""What the watchdog saves where policies go bad half-way, in a table: a share is of the reference policy's cost."""

from collections.abc import Iterator
from typing import Any

from rapgym.report.markdown import table
from rapgym.studies.watchdog import PROMISE

Found = dict[str, Any]
WHOLE, AFTER = "calib", "calib_after"  # all rows, and those from the fault on
NOTHING = 0.0005  # of the reference's cost
HEADS = ("fault", "watched, all rows", "watched, from the fault on", "alone, from the fault on",
         "watched, from the fault on: nats a token above the reference, at most")  # fmt: skip


def page(found: Found) -> str:
    """Shares of the reference policy's cost by fault, the least and the most of the scenarios."""
    names = dict.fromkeys(fault for one in found["scenarios"].values() for fault in one["faults"])
    rows = [
        [
            fault,
            _range(found, "faults", fault, "watched", WHOLE),
            _range(found, "faults", fault, "watched", AFTER),
            _range(found, "faults", fault, "alone", AFTER),
            f"{_most_above(found, fault):+.4f}",
        ]
        for fault in names
    ]
    return f"{_held(found)}\n\n{table(HEADS, rows)}\n\n{_price(found)}"


def _held(found: Found) -> str:
    """How often 5 % was kept to."""
    pairs = [pair for one in found["scenarios"].values() for pair in one["faults"].values()]
    whole, after = (
        sum(pair["watched"][columns] <= PROMISE for pair in pairs) for columns in (WHOLE, AFTER)
    )
    return (
        f"On {found['split']} rows of {len(found['scenarios'])} scenarios a good policy, "
        f"`{found['good_policy']}`, decides the first half and goes bad. Under the watchdog it costs at most 5 % more "
        f"than the reference policy over all rows in {whole} of {len(pairs)} cases, and counted from the fault on in "
        f"{after}; its gain before the fault pays for the difference."
    )


def _most_above(found: Found, fault: str) -> float:
    """What the watched policy costs above the reference from the fault on, at most, nats a token."""
    return max(
        (one["faults"][fault]["watched"][AFTER] - 1) * one["reference"][AFTER]
        for one in found["scenarios"].values()
        if fault in one["faults"]
    )


def _price(found: Found) -> str:
    """What the watchdog adds to policies with which nothing is wrong, in hundredths of the reference's cost."""
    names = dict.fromkeys(name for one in found["scenarios"].values() for name in one["prices"])
    added = {name: max(_added(found, name)) for name in names}
    said = [f"{100 * most:.1f} to `{name}`" for name, most in added.items() if most > NOTHING]
    rest = len(added) - len(said)
    return (
        "Where nothing is wrong, the watchdog adds, in hundredths of the reference's cost, "
        + "; ".join([*(f"at most {each}" for each in said), f"nothing to {rest} policies"])
        + ". It takes cost off those that are bad throughout."
    )


def _added(found: Found, name: str) -> Iterator[float]:
    for one in found["scenarios"].values():
        if name in one["prices"]:
            pair = one["prices"][name]
            yield pair["watched"][WHOLE] - pair["alone"][WHOLE]


def _range(found: Found, kind: str, name: str, how: str, columns: str) -> str:
    shares = sorted(
        one[kind][name][how][columns] for one in found["scenarios"].values() if name in one[kind]
    )
    return f"{shares[0]:.2f} to {shares[-1]:.2f}"
