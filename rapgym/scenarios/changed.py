"""A scenario in which some of what it states is another: what `BASE[card=40,tenant=none]` says, and means."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rapgym.errors import InvalidSpec
from rapgym.model.shapes import format_of, model_spec
from rapgym.scenarios import card, tables
from rapgym.scenarios.story import Recorded, Scenario
from rapgym.workload import names
from rapgym.workload.inputs import how

OPTIONS = (
    "memory", "requests", "card", "every", "served", "format", "restore", "link", "reaction", "window",
    "tenant", "profile", *how.OPTIONS,
)  # fmt: skip
OF_TRAFFIC = {"requests", "every"}  # which need to know who else is on the card
ALONE = "none"  # of `tenant`: nobody else is on the card

_NAME = re.compile(r"(?P<base>[^\[\]]+)\[(?P<options>[^\[\]]+)\](-v\d+)?")


def options_of(name: str) -> tuple[str, dict[str, str]]:
    """What `laptop[memory=FILE,requests=FILE,card=GIB,every=K,served=MODEL]` says.

    Raises:
        InvalidSpec: it cannot be read, or changes requests without saying who else is on the card.
    """
    found = _NAME.fullmatch(name)
    told = dict(part.partition("=")[::2] for part in found["options"].split(",")) if found else {}
    others = {"memory", "tenant"} & {*told}
    traffic = {*told} & (OF_TRAFFIC | {*how.OPTIONS})
    if (
        found is None
        or not all(told.values())
        or {*told} - {*OPTIONS}
        or len(others) > 1
        or (traffic and not others)
    ):
        raise InvalidSpec(
            f"{name!r} names no scenario: one that is changed is called BASE[KEY=VALUE,...] with the keys "
            f"{', '.join(OPTIONS)}; requests and every need memory or tenant, of which one may stand"
        )
    return found["base"], told


def name_of(base: str, options: Mapping[str, str]) -> str:
    """The name that `options_of` reads.

    Raises:
        InvalidSpec: a path holds a character that the name cannot.
    """
    name = f"{base}[{','.join(f'{key}={value}' for key, value in options.items())}]"
    if any(set(value) & set(",=[]") for value in (base, *options.values())):
        raise InvalidSpec(f"{name}: a path must not hold any of , = [ ]; rename the file")
    return name


def changed(base: Scenario, options: Mapping[str, str]) -> Scenario:
    """The scenario with these changes; its `workload` is "" and still to be found or made.

    Raises:
        InvalidSpec: a value cannot be; the message names its key.
        DataUnavailable: a trace or a recording is not there.
        InvalidTrace: other requests than the base's are no valid trace; without `window` they say it.
    """
    number = _reader(options)
    trace = options.get("requests", base.trace)
    # The stated share of a trace is of that trace: of other requests all are served.
    every = number("every", int, base.every if trace == base.trace else 1)
    served, memory = options.get("served", base.served), options.get("memory")
    model_spec(served)  # says which there are
    reading = ";".join(f"{name}={options[name]}" for name in how.OPTIONS if name in options)
    window_s = number("window", int, None)
    if window_s is None and trace == base.trace:
        window_s = base.window_s
    elif window_s is None:
        from rapgym.workload import own  # which loads all that reads files of the user's

        window_s = own.window_s(trace, every, how.How.of(reading))
    form = format_of(options["format"]) if "format" in options else base.form
    found = replace(
        base,
        name=name_of(base.name, options),
        story=_told(base, options),
        card_gib=number("card", float, base.card_gib),
        served=served,
        form=form,
        table=base.table if form == base.form else tables.table_name(tables.base_name(base), form),
        trace=trace,
        every=every,
        restore_s=number("restore", float, base.restore_s),
        reaction_s=number("reaction", float, base.reaction_s),
        window_s=window_s,
        device_profile=options.get("profile", base.device_profile),
        tenant=base.tenant if memory is None else Recorded(memory, names.sha256(memory)),
        workload="",
        group="own",
        synthetic=base.synthetic and memory is None and "requests" not in options,
        splits=base.splits if memory is None and "tenant" not in options else "time",
        reading=reading,
    )
    if "tenant" in options:
        found = _beside(found, options["tenant"])
    card.profile_of(found)  # says which there are
    if "link" in options:
        speed = number("link", float, math.nan)
        if not (math.isfinite(speed) and speed > 0):
            raise InvalidSpec(f"link is more than 0 GB a second, not {options['link']}")
        blocks_bytes = int(card.footprint(found).weights.sum())
        found = replace(found, restore_s=blocks_bytes / (speed * 1e9))
    return found


def _reader(options: Mapping[str, str]) -> Callable[[str, type, Any], Any]:
    """What reads a number out of `options`, by its key, its type, and what stands where it is not there."""

    def number(key: str, wanted: type, otherwise: Any) -> Any:
        if key not in options:
            return otherwise
        try:
            return wanted(options[key])
        except ValueError:
            kind = "a whole number" if wanted is int else "a number"
            raise InvalidSpec(f"{key} is {kind}, not {options[key]!r}") from None

    return number


def _beside(story: Scenario, held: str) -> Scenario:
    """The scenario with nobody else on the card, or with somebody who holds the same all the time.

    What is held all the time is no more part of the card than what is sold: it makes the card smaller.
    """
    if story.trace.startswith(names.DRAWN):
        raise InvalidSpec(
            f"tenant={held}: arrivals that are drawn need the tenant that is drawn beside them"
        )
    try:
        held_gib = 0.0 if held == ALONE else float(held)
    except ValueError:
        held_gib = math.nan
    if not 0 <= held_gib < story.card_gib:
        raise InvalidSpec(
            f"tenant is {ALONE} or GiB that others hold all the time, less than the card's "
            f"{story.card_gib:g}, not {held!r}"
        )
    return replace(story, tenant=None, offsets=1, card_gib=story.card_gib - held_gib)


_SAYS = {
    "served": "{} served",
    "format": "in {}",
    "memory": "memory in use as {} recorded it",
    "requests": "the requests of {}",
    "card": "a card of {} GiB",
    "tenant": "others holding {} GiB all the time",
}


def _told(base: Scenario, options: Mapping[str, str]) -> str:
    told = [
        "nobody else on the card"
        if (key, options[key]) == ("tenant", ALONE)
        else says.format(options[key])
        for key, says in _SAYS.items()
        if key in options
    ]
    return f"{base.name}{' with ' if told else ''}{', '.join(told)}."
