"""The scenarios that came with rapgym, one TOML file each, and the names that scenarios answer to."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from rapgym.errors import InvalidSpec
from rapgym.files import places
from rapgym.model.shapes import is_config, model_spec
from rapgym.scenarios import changed, file
from rapgym.scenarios.story import FILE_SUFFIX, GROUPS, Recorded, Scenario, Tenant, restored
from rapgym.workload import names
from rapgym.workload.inputs import how


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
    `BASE[card=GIB,served=MODEL,memory=FILE,...]` is another scenario in which what is named is another:
    see `rapgym.scenarios.changed`.

    Raises:
        InvalidSpec: there is none, and the message lists those there are; or a file cannot be read.
        DataUnavailable: a file that its name speaks of is not there.
    """
    if "[" in name:
        base, options = changed.options_of(name)
        return _with_series(changed.changed(scenario(base), options))
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
    drawn = [trace.startswith(names.DRAWN) for trace in traces.values()]
    if any(drawn) and not (all(drawn) and isinstance(story.tenant, Tenant)):
        raise InvalidSpec(
            f"{story.name}: trace: arrivals that are drawn ({names.DRAWN}...) stand beside a "
            "tenant whose arrivals are drawn too"
        )
    for key, trace in traces.items():
        known = [
            *names.REQUESTS,
            *([names.RECORDED_POOL] if key == "tenant.trace" else []),
        ]
        if not any(drawn) and not names.is_path(trace) and trace not in known:
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
    from rapgym.workload import own  # which loads all that reads files of the user's

    others = (*_others(story, names.sha256), *_read_as(story))
    name = own.own_name(story.trace, story.every, story.window_s, others)
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
    from rapgym.workload import own
    from rapgym.workload.inputs import clock

    if reading.timezone or not own.needs_zone(traces):
        return stated
    return (*stated, clock.machine_zone())


def files_of(story: Scenario) -> tuple[str, ...]:
    """What a scenario of the user's is made of: its own file, its traces, and shapes by their path."""
    base = changed.options_of(story.name)[0] if "[" in story.name else story.name
    path = file.path_in(base)
    files = [] if path is None else [str(path)]
    models = [story.served]
    match story.tenant:
        case Tenant(model, trace):
            files += [story.trace, trace]
            models.append(model)
        case Recorded(recording):
            files += [story.trace, recording]
        case None:
            files.append(story.trace)
    return tuple(dict.fromkeys([*files, *filter(is_config, models)]))


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
            `BASE[KEY=VALUE,...]` with the keys `card` and `tenant` (GiB), `served`, `format`, `memory`,
            `requests`, `every`, `restore`, `link`, `reaction`, `window`, `profile`; `requests` needs
            `memory` or `tenant`.

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
        known = ", ".join(story.name for story in by_default())
        raise InvalidSpec(
            f"a scenario is a name, a Scenario or its fields, not {named!r}; there are {known}"
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
