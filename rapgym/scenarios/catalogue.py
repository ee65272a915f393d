"""The list of scenarios, and the names they answer to."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rapgym.errors import InvalidSpec
from rapgym.model.shapes import Format
from rapgym.scenarios.story import Recorded, Scenario, Tenant, restored
from rapgym.workload import own as own_traces

# Numbers were chosen on train parts and frozen before the first run on test. W = 7 for the Azure
# conversation trace is its mean residence over the whole hour (6.9 s; its train part has 6.5).
_BESIDE_CODE = Scenario(
    "chat-beside-code",
    "Two 7B services share a 48 GB card: the limit moves with the code service's bursts.",
    card_gib=44,
    served="llama2-7b",
    trace="azure-conv",
    every=2,
    tenant=Tenant("llama2-7b", "azure-code", every=2, pool_gib=8),
    restore_s=0.5,
    window_s=7,
    workload="azure-conv2-code2-pool8",
)
_GQA = replace(
    _BESIDE_CODE,
    name="chat-gqa",
    story="The same hour on grouped-query models: KV is small, so weights and FFN blocks decide.",
    card_gib=40,
    served="llama3-8b",
    every=1,
    tenant=Tenant("llama3-8b", "azure-code", every=1, pool_gib=8),
    workload="azure-conv1-code1-pool8-gqa",
)

SCENARIOS = (
    _BESIDE_CODE,
    _GQA,
    replace(
        _BESIDE_CODE,
        name="chat-beside-code-disk",
        story="The first card with blocks coming back from a disk: thrashing costs.",
        restore_s=4.0,
    ),
    replace(
        _BESIDE_CODE,
        name="chat-beside-code-notice",
        story="The first card with a tenant that says one second ahead what it will take.",
        notice_s=1,
    ),
    replace(
        _BESIDE_CODE,
        name="chat-tight",
        story="The two services of the first scenario on a smaller card.",
        card_gib=40,
    ),
    replace(
        _BESIDE_CODE,
        name="chat-bursty",
        story="The code service takes all of its requests into a pool twice as large: deep, fast "
        "bursts.",
        card_gib=48,
        tenant=Tenant("llama2-7b", "azure-code", every=1, pool_gib=16),
        workload="azure-conv2-code1-pool16",
    ),
    replace(
        _GQA,
        name="chat-mixed",
        story="A grouped-query model serves beside a tenant whose KV cache is four times as heavy a "
        "token.",
        tenant=Tenant("llama2-7b", "azure-code", every=2, pool_gib=8),
        workload="azure-conv1-code2-pool8",
    ),
    replace(
        _BESIDE_CODE,
        name="code-beside-chat",
        story="The roles turned: the code service is served, the conversation has priority.",
        trace="azure-code",
        tenant=Tenant("llama2-7b", "azure-conv", every=2, pool_gib=20),
        window_s=2,
        workload="azure-code2-conv2-pool20",
    ),
    replace(
        _BESIDE_CODE,
        name="chat-alone",
        story="No tenant: the KV cache of the batch alone decides what fits.",
        card_gib=32,
        tenant=None,
        workload="azure-conv2-alone",
        offsets=1,
    ),
    # What 4 bits save of the served model's weights, 8.86 GiB, is taken off the card; its blocks cross
    # the same link in 27 % of the time.
    replace(
        _BESIDE_CODE,
        name="chat-int4",
        story="The first hour with weights of 4 bits, on a card smaller by the 9 GiB that they save: what "
        "is left for the KV cache is as before. Costs are above the full model in 4 bits.",
        card_gib=35,
        restore_s=0.13,
        table="smollm2-135m-int4",
        form=Format("int4"),
    ),
    Scenario(
        "long-context",
        "Long conversations beside a recorded KV pool. Its quality table was measured at 512 tokens, "
        "far below its prompts: outside the headline.",
        card_gib=72,
        served="llama3-8b",
        trace="mooncake-conversation",
        every=3,
        tenant=Tenant("llama3-8b", "vllm-kvcache", every=1, pool_gib=32),
        restore_s=0.5,
        window_s=18,
        workload="mooncake3-vllm-pool32",
        headline=False,
    ),
    Scenario(
        "laptop",
        "A 7B model answers beside a programmer's work on a machine with 24 GB of shared memory, as we "
        "recorded it for 45 minutes; blocks come back from its disk. Short and calm: outside the "
        "headline.",
        card_gib=23.5,
        served="llama2-7b",
        trace="azure-conv",
        every=4,
        tenant=Recorded("recordings/python-project.csv.gz"),
        restore_s=4.0,
        window_s=7,
        workload="azure-conv4-python-project",
        headline=False,
    ),
)


_LARGE_DAYS = Scenario(
    "days-large",
    "Fourteen synthetic days: a production service with long prompts, beside one with ten times as many "
    "clients' requests, both drawn from their measured statistics. 8-bit weights and KV cache.",
    card_gib=32,
    served="llama3-8b",
    trace="servegen:language/m-large",
    every=25,
    tenant=Tenant("llama3-8b", "servegen:language/m-mid", every=200, pool_gib=8),
    restore_s=0.25,
    window_s=7,
    workload="servegen-large25-mid200-pool8",
    series_sha256="2bd789cdde2915ac18b144e3913bfb64690eac79ec53b9cc1c1c4cf83a607b65",
    table="smollm2-135m-int8-int8kv",
    form=Format("int8", "int8"),
    synthetic=True,
    offsets=1,
    splits="days",
)

# Long ones, for what an hour cannot tell. Each is drawn where it is first asked for: no run takes
# them unless it names them. A tenant of m-small would have to serve every 10th of its requests to move
# the limit, 142 million: so m-large stands beside both of the others, another share of it each time.
DAYS = (
    _LARGE_DAYS,
    replace(
        _LARGE_DAYS,
        name="days-mid",
        story="Fourteen synthetic days of a service with short requests beside one with long prompts: "
        "its own KV cache is small, so that the tenant decides. 8-bit weights and KV cache.",
        card_gib=29,
        trace="servegen:language/m-mid",
        every=200,
        tenant=Tenant("llama3-8b", "servegen:language/m-large", every=60, pool_gib=8),
        window_s=3,
        workload="servegen-mid200-large60-pool8",
        series_sha256="d5beb2ad6972bebdd963a8311a3cd4ae4ed2840a38eca4adcf316830a265c1f2",
    ),
    replace(
        _LARGE_DAYS,
        name="days-small",
        story="Fourteen synthetic days of a service whose answers take a word or two, beside one with "
        "long prompts. 8-bit weights and KV cache.",
        card_gib=28,
        trace="servegen:language/m-small",
        every=150,
        tenant=Tenant("llama3-8b", "servegen:language/m-large", every=75, pool_gib=8),
        window_s=2,
        workload="servegen-small150-large75-pool8",
        series_sha256="eea8631b60d6e8550135d89d0b717eef53e239fc8f3629eeb9942dec7d39fb49",
    ),
)


def scenario(name: str) -> Scenario:
    """The scenario of this name, with or without its version.

    `BASE[memory=FILE,requests=FILE,card=GIB,every=K]` is a scenario of the list with a recording of
    memory in its tenant's place and, where stated, other requests, card and share of the requests.

    Raises:
        InvalidSpec: there is none; the message lists those there are.
        DataUnavailable: a file that its name speaks of is not there.
    """
    if "[" in name:
        return _on_own_traces(*options_of(name))
    for found in (*SCENARIOS, *DAYS):
        if name in (found.name, found.id):
            return found
    known = ", ".join(each.name for each in (*SCENARIOS, *DAYS))
    raise InvalidSpec(f"no scenario is called {name!r}; there are {known}")


def list_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with rapgym, the headline's first.

    Example:
        >>> "chat-beside-code" in rapgym.list_scenarios()
        True
    """
    every = (*SCENARIOS, *DAYS)
    return tuple(found.name for found in sorted(every, key=lambda found: not found.headline))


def load_scenario(name: str) -> Scenario:
    """A scenario: card, served model, workload and who else is on the card.

    Args:
        name: one of `list_scenarios()`, with or without its version; or
            `BASE[memory=FILE,requests=FILE,card=GIB,every=K]` for your own traces, of which only
            `memory` must be there.

    Returns:
        A frozen record. `dataclasses.replace` changes it, and `gymnasium.make("RAP-v0", scenario=...)`
        takes it in place of a name.

    Raises:
        InvalidSpec: there is none of this name; the message lists those there are.
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
) -> Scenario:
    """A scenario by its name, itself or its fields, on a device and at a share of its lengths.

    What is left at its default stays as the scenario says.

    Raises:
        InvalidSpec: there is no such scenario or profile, or the share is none.
    """
    if isinstance(named, Scenario):
        found = named
    else:
        found = restored(named) if isinstance(named, Mapping) else scenario(named)
    if length_share != 1.0:
        found = replace(found, length_share=length_share)
    if device_profile is not None:
        found = replace(found, device_profile=device_profile)
    return found


def _on_own_traces(base_name: str, options: dict[str, str]) -> Scenario:
    base, memory = scenario(base_name), options["memory"]
    served = options.get("requests", base.trace)
    try:
        # The stated share of a trace is of that trace: of other requests all are served.
        every = int(options.get("every", base.every if served == base.trace else 1))
        card_gib = float(options.get("card", base.card_gib))
    except ValueError as error:
        raise InvalidSpec(f"card is a number of GiB, every a whole number: {error}") from error
    return replace(
        base,
        name=name_of(base.name, options),
        story=f"{base.name} with memory in use as {memory} recorded it.",
        card_gib=card_gib,
        trace=served,
        every=every,
        tenant=Recorded(memory, own_traces.sha256(memory)),
        workload=own_traces.own_name(memory, served, every, base.window_s),
        headline=False,
        synthetic=False,
        splits="time",
        series_sha256="",
    )


_NAME = re.compile(r"(?P<base>[^\[\]]+)\[(?P<options>[^\[\]]+)\](-v\d+)?")
OPTIONS = ("memory", "requests", "card", "every")


def options_of(name: str) -> tuple[str, dict[str, str]]:
    """What `laptop[memory=FILE,requests=FILE,card=GIB,every=K]` says; all but the first may be absent.

    Raises:
        InvalidSpec: it cannot be read.
    """
    found = _NAME.fullmatch(name)
    told = dict(part.partition("=")[::2] for part in found["options"].split(",")) if found else {}
    if found is None or not told.get("memory") or not all(told.values()) or {*told} - {*OPTIONS}:
        raise InvalidSpec(
            f"{name!r} names no scenario: one on your own traces is called "
            "BASE[memory=FILE,requests=FILE,card=GIB,every=K], of which only memory must be there"
        )
    return found["base"], told


def name_of(base: str, options: dict[str, str]) -> str:
    """The name that `options_of` reads.

    Raises:
        InvalidSpec: a path holds a character that the name cannot.
    """
    name = f"{base}[{','.join(f'{key}={value}' for key, value in options.items())}]"
    if any(set(value) & set(",=[]") for value in options.values()):
        raise InvalidSpec(f"{name}: a path must not hold any of , = [ ]; rename the file")
    return name
