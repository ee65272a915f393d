"""A meter read by a steady clock, into the work file of a recording."""

import math
import time
from collections.abc import Callable

from rapgym.errors import DataUnavailable, InvalidSpec
from rapgym.recorder.meters import Meter
from rapgym.recorder.work_file import WorkFile

PATIENCE_S = 600.0  # for which every reading may fail before a recording ends
SHORTEST_S = 0.01  # between samples: times are kept in milliseconds


def sample(
    meter: Meter,
    work: WorkFile,
    interval_s: float,
    seconds: float = math.inf,
    *,
    told: Callable[[float, int], None] = lambda t_s, used_bytes: None,
    missed: Callable[[float, DataUnavailable], None] = lambda t_s, error: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Read the meter at every multiple of `interval_s`, until `seconds` have passed.

    A row bears the time at which it was read. Lateness does not add up: a reading that was late does
    not put off the next, and instants that passed meanwhile, as on a machine that slept, are left out:
    in a trace the sample before them holds. So are readings that fail. It also ends when what is measured
    is gone (None).

    Args:
        told: called with each row once it is safe.
        missed: called with the time and the error of a reading that failed.

    Raises:
        DataUnavailable: no reading has succeeded yet, or none for `PATIENCE_S`.
    """
    if not SHORTEST_S <= interval_s < math.inf or not seconds > 0:
        raise InvalidSpec(f"--interval is at least {SHORTEST_S} s, and --seconds above 0")
    last_s, tick = -1.0, 0
    since_s: float | None = None  # the last reading that did not fail
    while tick * interval_s < seconds:
        wait_s = tick * interval_s - (time.monotonic() - work.start_s)
        if wait_s > 0:
            sleep(wait_s)
        t_s = work.elapsed_s()
        try:
            used_bytes = meter()
        except DataUnavailable as error:
            if since_s is None or t_s - since_s > PATIENCE_S:
                raise
            missed(t_s, error)
        else:
            if used_bytes is None:
                return
            since_s = t_s
            if t_s > last_s:
                work.append(t_s, used_bytes)
                told(t_s, used_bytes)
                last_s = t_s
        tick = max(tick + 1, math.ceil((time.monotonic() - work.start_s) / interval_s))
