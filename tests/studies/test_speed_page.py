"""Tables of steps and decisions: a row an environment and lanes, a row a policy, with what stands beside it."""

from rapgym.studies.pages import speed

MADE_ON = {"machine": "x86_64 Linux", "python": "3.11.7", "commit": "0123456789"}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_steps_are_told_by_lanes_with_their_ratio_and_where_they_were_measured() -> None:
    each = {"mean_us": 1234.56, "of_peer_mean": 0.5}
    found = {
        "lanes": {"1": {"RAP-v0": each}, "1024": {"RAP-v0": each}},
        "of_all": {"RAP-v0": {"reset_us": 1200.0, "added_mib": 99.6}},
        **MADE_ON,
    }
    told = speed.steps(found).splitlines()
    assert cells(told[2]) == ["1", "`RAP-v0`", "1,234.6", "0.500"]
    assert cells(told[3])[0] == "1024"
    assert (
        "all of 1,024 lanes, and what they add to memory: `RAP-v0` 1.2 ms and 100 MiB." in told[5]
    )
    assert told[-1] == "Measured on one core, x86_64 Linux, Python 3.11.7, at `0123456`."


def test_a_policy_has_one_row_of_both_ways_with_the_watchdog_and_the_log_beside_it() -> None:
    in_turns = {
        "forecast": {"p50": 10.4, "p99": 20.0},
        "forecast (watchdog)": {"p50": 15.0, "p99": 0.0},
        "forecast (audit log)": {"p50": 30.0, "p99": 0.0},
        "numpy": {"p50": 55.0, "p99": 99.0},
    }
    in_a_loop = {
        name: {share: us - 5 for share, us in each.items()} for name, each in in_turns.items()
    }
    found = {"microseconds": {"chat": in_turns}, "in_a_loop": {"chat": in_a_loop}, **MADE_ON}
    told = speed.decisions(found).splitlines()
    assert cells(told[0])[2::4] == ["loop: p50", "turns: p50"]
    numbers = ["5", "15", "10", "25", "10", "20", "15", "30"]
    assert cells(told[2]) == ["`chat`", "`forecast`", *numbers]
    assert cells(told[3]) == ["`chat`", "`numpy`", "50", "94", "-", "-", "55", "99", "-", "-"]
    assert len(told) == 6
