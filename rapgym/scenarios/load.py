"""A scenario under more or less load: its own requests thinned or repeated, all else as it is."""

import hashlib
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from rapgym.arrays import IntArray
from rapgym.errors import InvalidSpec
from rapgym.files import checked
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario
from rapgym.workload import names, own, series
from rapgym.workload.series import Series

RULES = 1  # of `under`: a change gives every series that was made by it another name
FINEST = 1000  # loads are fractions with at most this denominator
MOST = 64.0


def under(story: Scenario, load: float) -> Scenario:
    """The scenario with `load` times its requests; itself at 1.

    Below 1 requests are left out evenly, as they arrive: 1/k leaves every k-th. Above 1 some arrive
    twice or more, in the same window: that is burstier than independent requests would be. Lengths,
    reserve and the tenant stay. The series is made once and kept in the cache.

    Args:
        load: above 0; thousandths count.

    Raises:
        InvalidSpec: there is no such load, or the scenario is one of days.
        InvalidTrace: its series keeps no single requests, or a part of it is left without any.
        HeldOut: training asks.
    """
    if not 0 < load <= MOST:
        raise InvalidSpec(f"a load is above 0 and at most {MOST:g} times the requests, not {load}")
    share = Fraction(load).limit_denominator(FINEST)
    if share == 1:
        return story
    if share == 0:
        raise InvalidSpec(f"a load of {load:g} leaves less than one request in {FINEST}")
    if story.is_drawn:
        raise InvalidSpec(
            f"{story.name} lasts days: its load is changed by `every`, in a scenario file of your own"
        )
    whole, source = worlds.workload(story), checked.sha256_once(worlds.workload_file(story))
    text = f"load {RULES} {source} {share}"
    name = names.LOADED + hashlib.sha256(text.encode()).hexdigest()[:16]
    path = checked.cache_folder() / "workloads" / f"{name}.csv.gz"
    if not path.is_file():
        made = repeated(whole, share)
        own.require_parts(made, f"{story.name} at {load:g} times its load", story.splits)
        path.parent.mkdir(parents=True, exist_ok=True)
        series.write(made, path)
    return replace(story, workload=name, series_sha256="")


def repeated(whole: Series, share: Fraction) -> Series:
    """A series in which each request arrives as often as its turn says, `share` times on average."""
    single = whole.single_requests()
    count = len(single.prompt_tokens)
    marks = np.array([math.ceil(share * i) for i in range(count + 1)], dtype=np.int64)
    times = np.diff(marks)
    first = marks[single.first]
    prompt, output = (np.repeat(c, times) for c in (single.prompt_tokens, single.output_tokens))
    row = np.repeat(np.arange(len(whole)), np.diff(first))

    def summed(column: IntArray) -> IntArray:
        total = np.zeros(len(whole), dtype=np.int64)
        np.add.at(total, row, column)
        return total

    longest = np.zeros(len(whole), dtype=np.int64)
    np.maximum.at(longest, row, prompt)
    words = [f"{p}/{o}" for p, o in zip(prompt.tolist(), output.tolist(), strict=True)]
    told = np.array(
        [
            " ".join(words[i:j])
            for i, j in zip(first[:-1].tolist(), first[1:].tolist(), strict=True)
        ],
        dtype=object,
    )
    return replace(
        whole,
        batch=np.diff(first),
        prompt_tokens=summed(prompt),
        output_tokens=summed(output),
        longest_prompt_tokens=longest,
        requests=told,
        origin=whole.origin | {"load": str(share)},
    )
