"""The scenarios that came with rapgym, one TOML file each, and the names that scenarios answer to."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from rapgym.errors import InvalidSpec
from rapgym.files import places
from rapgym.model.shapes import is_config, model_spec
from rapgym.scenarios import file
from rapgym.scenarios.story import FILE_SUFFIX, GROUPS, Recorded, Scenario, Tenant, restored
from rapgym.workload import loaders, servegen
from rapgym.workload import own as own_traces
from rapgym.workload.inputs import clock, how


@cache
def shipped() -> tuple[Scenario, ...]:
    """The scenarios that came with rapgym: group by group, the headline's first, by name in each.

    Raises:
        InvalidSpec: a file of them is damaged.
    """
    found = [file.read(path, path.stem) for path in places.STORIES.glob(f"*{FILE_SUFFIX}")]
    return tuple(sorted(found, key=place))


def place(story: Scenario) -> tuple[int, str]:
    """Where a scenario stands in the list."""
    return GROUPS.index(story.group), story.name


def by_default() -> tuple[Scenario, ...]:
    """What a command means that is given no name: all but those that are drawn, which take hours."""
    return tuple(story for story in shipped() if not story.is_drawn)


def named(names: Iterable[str] | None) -> list[Scenario]:
    """The scenarios of these names; `by_default` without any.

    Raises:
        InvalidSpec, DataUnavailable: as `scenario` does.
    """
    return [scenario(name) for name in names or ()] or list(by_default())


def scenario(name: str) -> Scenario:
    """The scenario of this name, with or without its version.

    A name that ends in `.toml` is the path of a file of the user's.
    `BASE[memory=FILE,requests=FILE,card=GIB,every=K,served=MODEL]` is another scenario with a recording
    of memory in its tenant's place or another model served and, where stated, other requests, card and
    share of the requests.

    Raises:
        InvalidSpec: there is none, and the message lists those there are; or a file cannot be read.
        DataUnavailable: a file that its name speaks of is not there.
    """
    if "[" in name:
        return _changed(*options_of(name))
    if path := file.path_in(name):
        return _with_series(_checked(file.read(path)))
    for found in shipped():
        if name in (found.name, found.id):
            return found
    known = ", ".join(each.name for each in shipped())
    raise InvalidSpec(
        f"no scenario is called {name!r}; there are {known}, or give the path of a {FILE_SUFFIX} file"
    )


def _checked(story: Scenario) -> Scenario:
    """A file's scenario, once the shapes and traces that it names are known.

    Raises:
        InvalidSpec: one is not; the message names file and key.
    """
    models, traces = {"served": story.served}, {"trace": story.trace}
    if isinstance(story.tenant, Tenant):
        models["tenant.model"], traces["tenant.trace"] = story.tenant.model, story.tenant.trace
    for key, model in models.items():
        try:
            model_spec(model)
        except InvalidSpec as error:
            raise InvalidSpec(f"{story.name}: {key}: {error}") from error
    drawn = [trace.startswith(servegen.PREFIX) for trace in traces.values()]
    if any(drawn) and not (all(drawn) and isinstance(story.tenant, Tenant)):
        raise InvalidSpec(
            f"{story.name}: trace: arrivals that are drawn ({servegen.PREFIX}...) stand beside a "
            "tenant whose arrivals are drawn too"
        )
    for key, trace in traces.items():
        known = [
            *loaders.REQUEST_TRACES,
            *([own_traces.RECORDED_POOL] if key == "tenant.trace" else []),
        ]
        if not any(drawn) and not loaders.is_path(trace) and trace not in known:
            raise InvalidSpec(
                f"{story.name}: {key}: no request trace is called {trace!r}; there are "
                f"{', '.join(known)}, or give the path of a file of requests"
            )
    return story


def _traffic(story: Scenario) -> tuple[object, ...]:
    """What a series depends on: two scenarios of one traffic share it."""
    return story.trace, story.every, story.window_s, _others(story, str)


def _others(story: Scenario, identity: Callable[[str], str]) -> tuple[object, ...]:
    """Who shares the card, as far as a series depends on it; traces by their `identity`."""
    match story.tenant:
        case Tenant(trace=trace, every=every):
            return identity(trace), every, story.pool_tokens
        case Recorded(recording):
            return (identity(recording),)
    return ()


def _with_series(story: Scenario) -> Scenario:
    """A scenario of the user's with its series: one under traces/ of the same traffic, else its own.

    Raises:
        InvalidSpec: it names a series of other traffic.
        DataUnavailable: a trace is not there.
    """
    here = [each.workload for each in shipped() if _traffic(each) == _traffic(story)]
    if story.workload and story.workload not in here:
        raise InvalidSpec(
            f"{story.name}: workload {story.workload!r} is no series of this traffic; leave the line out, "
            "and the series is found or made"
        )
    if here:
        return replace(story, workload=here[0])
    others = (*_others(story, own_traces.sha256), *_read_as(story))
    name = own_traces.own_name(story.trace, story.every, story.window_s, others)
    return replace(story, workload=name, series_sha256="")


def _read_as(story: Scenario) -> tuple[object, ...]:
    """What the reading of its traces depends on beside their content."""
    reading = how.How.of(story.reading)
    stated = tuple(sorted(reading.told.items()))
    traces = [story.trace]
    if isinstance(story.tenant, Recorded):
        traces.append(story.tenant.recording)
    elif story.tenant is not None:
        traces.append(story.tenant.trace)
    if reading.timezone or not own_traces.needs_zone(traces):
        return stated
    return (*stated, clock.machine_zone())


def files_of(story: Scenario) -> tuple[str, ...]:
    """What a scenario of the user's is made of: its own file, its traces, and shapes by their path."""
    base = options_of(story.name)[0] if "[" in story.name else story.name
    path = file.path_in(base)
    names = [] if path is None else [str(path)]
    models = [story.served]
    match story.tenant:
        case Tenant(model, trace):
            names += [story.trace, trace]
            models.append(model)
        case Recorded(recording):
            names += [story.trace, recording]
        case None:
            names.append(story.trace)
    return tuple(dict.fromkeys([*names, *filter(is_config, models)]))


def list_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with rapgym, the headline's first.

    Example:
        >>> "chat-beside-code" in rapgym.list_scenarios()
        True
    """
    return tuple(found.name for found in shipped())


def load_scenario(name: str) -> Scenario:
    """A scenario: card, served model, workload and who else is on the card.

    Args:
        name: one of `list_scenarios()`, with or without its version; the path of a `.toml` file of
            yours (`rapgym scenarios new` writes one); or
            `BASE[memory=FILE,requests=FILE,card=GIB,every=K,served=MODEL]`, of which `memory` or
            `served` must be there.

    Returns:
        A frozen record. `dataclasses.replace` changes it, and `gymnasium.make("RAP-v0", scenario=...)`
        takes it in place of a name.

    Raises:
        InvalidSpec: there is none of this name, and the message lists those there are; or a file
            states what cannot be, and the message names the key.
        DataUnavailable: a file that the name speaks of is not there.

    Example:
        >>> rapgym.load_scenario("chat-beside-code").card_gib
        44
    """
    return scenario(name)


def story_of(
    named: str | Scenario | Mapping[str, Any],
    length_share: float = 1.0,
    device_profile: str | None = None,
    *,
    stand_in: bool = False,
) -> Scenario:
    """A scenario by its name, itself or its fields, on a device and at a share of its lengths.

    What is left at its default stays as the scenario says. A share below 1 is a stand-in's.

    Raises:
        InvalidSpec: there is no such scenario or profile, or the share is none.
    """
    if not isinstance(named, str | Scenario | Mapping):
        names = ", ".join(story.name for story in by_default())
        raise InvalidSpec(
            f"a scenario is a name, a Scenario or its fields, not {named!r}; there are {names}"
        )
    if not isinstance(length_share, int | float):
        raise InvalidSpec(f"length_share is a number above 0, at most 1, not {length_share!r}")
    if not isinstance(device_profile, str | None):
        raise InvalidSpec(f"device_profile is a profile's name or file, not {device_profile!r}")
    if isinstance(named, Scenario):
        found = named
    else:
        found = restored(named) if isinstance(named, Mapping) else scenario(named)
    if stand_in or length_share != 1.0:
        found = replace(found, stand_in=True)
    if length_share != 1.0:
        found = replace(found, length_share=length_share)
    if device_profile is not None:
        found = replace(found, device_profile=device_profile)
    return found


def _changed(base_name: str, options: dict[str, str]) -> Scenario:
    base = scenario(base_name)
    trace = options.get("requests", base.trace)
    try:
        # The stated share of a trace is of that trace: of other requests all are served.
        every = int(options.get("every", base.every if trace == base.trace else 1))
        card_gib = float(options.get("card", base.card_gib))
    except ValueError as error:
        raise InvalidSpec(f"card is a number of GiB, every a whole number: {error}") from error
    served, memory = options.get("served", base.served), options.get("memory")
    model_spec(served)  # says which there are
    story = f"{base.name} with {served} served" if "served" in options else base.name
    if memory is not None:
        story += f" with memory in use as {memory} recorded it"
    changed = replace(
        base,
        name=name_of(base.name, options),
        story=f"{story}.",
        card_gib=card_gib,
        served=served,
        trace=trace,
        every=every,
        tenant=base.tenant if memory is None else _recorded(memory),
        workload="",
        group="own",
        synthetic=base.synthetic and memory is None,
        splits=base.splits if memory is None else "time",
        reading=";".join(f"{name}={options[name]}" for name in how.OPTIONS if name in options),
    )
    return _with_series(changed)


def _recorded(memory: str) -> Recorded:
    return Recorded(memory, own_traces.sha256(memory))


_NAME = re.compile(r"(?P<base>[^\[\]]+)\[(?P<options>[^\[\]]+)\](-v\d+)?")
OPTIONS = ("memory", "requests", "card", "every", "served", *how.OPTIONS)
OF_MEMORY = {"requests", "every", *how.OPTIONS}  # which stand beside a recording alone


def options_of(name: str) -> tuple[str, dict[str, str]]:
    """What `laptop[memory=FILE,requests=FILE,card=GIB,every=K,served=MODEL]` says.

    Raises:
        InvalidSpec: it cannot be read, or names neither `memory` nor `served`.
    """
    found = _NAME.fullmatch(name)
    told = dict(part.partition("=")[::2] for part in found["options"].split(",")) if found else {}
    changes = "memory" in told or ("served" in told and not {*told} & OF_MEMORY)
    if found is None or not changes or not all(told.values()) or {*told} - {*OPTIONS}:
        raise InvalidSpec(
            f"{name!r} names no scenario: one that is changed is called "
            "BASE[memory=FILE,requests=FILE,card=GIB,every=K,served=MODEL], of which memory or served "
            "must be there, and memory for requests and every"
        )
    return found["base"], told


def name_of(base: str, options: dict[str, str]) -> str:
    """The name that `options_of` reads.

    Raises:
        InvalidSpec: a path holds a character that the name cannot.
    """
    name = f"{base}[{','.join(f'{key}={value}' for key, value in options.items())}]"
    if any(set(value) & set(",=[]") for value in (base, *options.values())):
        raise InvalidSpec(f"{name}: a path must not hold any of , = [ ]; rename the file")
    return name
