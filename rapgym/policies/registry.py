"""Policies that rapgym knows by name, and those of users, as `module:Class`."""

import importlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rapgym.errors import InvalidPolicy
from rapgym.files import checked, incoming, json_text, limits, places
from rapgym.policies import basis, trained
from rapgym.policies.policy import Briefing, Policy, Told
from rapgym.scenarios.story import Scenario

Kind = Literal["static", "reactive", "heuristic", "learned", "bound", "rival"]
SAVED = "sb3:"  # before the path of a model that Stable-Baselines3 has saved


@dataclass(frozen=True, slots=True)
class Entry:
    """A method to compare with. Strings only, so that listing loads nothing."""

    name: str
    kind: Kind
    target: str  # "module:Class"
    summary: str
    designs: tuple[str, ...]  # measurements on calibration text that it cannot do without
    tune: str = ""  # "module:function" of (briefing) -> settings; empty: no free parameter
    train: str = ""  # "module:function" of (Training) -> arrays; empty: it does not learn
    file: str = ""  # of one training run, which serves wherever it can read the observations
    runs_of: str = ""  # another method whose training runs it reads, and does not train itself
    start_of: str = ""  # name of the method whose network it is, as it was before the first step

    @property
    def is_own(self) -> bool:
        """Whether it is a user's, named as `module:Class` or as `sb3:FILE.zip`."""
        return self.name == self.target or self.holds_pickles

    @property
    def holds_pickles(self) -> bool:
        """Whether it is a file that runs code as it is read."""
        return self.name.startswith(SAVED)

    @property
    def options(self) -> dict[str, Any]:
        """What a user's is built with."""
        path = self.name.removeprefix(SAVED)
        return {"path": str(Path(path).absolute())} if self.holds_pickles else {}

    @property
    def reads(self) -> str:
        """The method whose training runs it is built from; empty: none."""
        return self.runs_of or self.start_of or (self.name if self.train else "")


# The grid names the best set found, whatever it was first measured for.
_GRID = (
    "single", "attention-order", "ffn-order", "joint-order", "grid", "random", "near", "asked"
)  # fmt: skip
_ORDER = ("attention-order", "ffn-order", "joint-order")
_INFLUENCE = (*_ORDER, "influence")  # the orders say which layers the table vouches for

POLICIES = (
    Entry("static-best", "static", "rapgym.baselines.static_best:StaticBest",
          "the best single kept set, tuned on train, refused where it does not fit", _GRID,
          tune="rapgym.baselines.static_best:tune"),
    Entry("static-best-repaired", "static", "rapgym.baselines.static_best:StaticRepaired",
          "the best single kept set for this form; the shield cuts it where it does not fit", _GRID,
          tune="rapgym.baselines.static_best:tune_repaired"),
    Entry("static-layers", "static", "rapgym.baselines.static_layers:StaticLayers",
          "whole layers by ShortGPT's block influence, their number tuned; layers that hold a floor "
          "block stay; refused where it does not fit", _INFLUENCE,
          tune="rapgym.baselines.static_layers:tune"),
    Entry("random", "reactive", "rapgym.baselines.random_drop:RandomDrop",
          "blocks at random until the rest fits", _ORDER),
    Entry("keep-all", "reactive", "rapgym.baselines.keep_all:KeepAll",
          "everything; the shield cuts along its fixed order", _ORDER),
    Entry("attention-only", "reactive", "rapgym.baselines.one_kind:AttentionOnly",
          "attention blocks in their greedy order until the rest fits; the shield goes on", _ORDER),
    Entry("ffn-only", "reactive", "rapgym.baselines.one_kind:FfnOnly",
          "FFN blocks in their greedy order until the rest fits; the shield goes on", _ORDER),
    Entry("gsi", "reactive", "rapgym.baselines.gsi:GreedyOrder",
          "greedy order until the rest fits", _ORDER),
    Entry("gsi-refuse", "reactive", "rapgym.baselines.gsi:GreedyOrderRefused",
          "the same; what stops fitting inside a window is refused, not repaired", _ORDER),
    Entry("gsi-per-byte", "reactive", "rapgym.baselines.gsi_per_byte:GreedyPerByte",
          "least greedy importance per byte freed at this demand until the rest fits", _ORDER),
    Entry("frontier", "reactive", "rapgym.policies.reference:FrontierLookup",
          "the best grid set that fits now: the reference policy", _GRID),
    Entry("frontier-margin", "heuristic", "rapgym.baselines.frontier_margin:FrontierMargin",
          "the best grid set that fits beside a margin tuned on train", _GRID,
          tune="rapgym.baselines.frontier_margin:tune"),
    Entry("frontier-recent", "heuristic", "rapgym.baselines.frontier_recent:FrontierRecent",
          "the best grid set that fits beside a margin and a share of the deepest recent fall, both tuned",
          _GRID, tune="rapgym.baselines.frontier_recent:tune"),
    Entry("frontier-hysteresis", "heuristic",
          "rapgym.baselines.frontier_hysteresis:FrontierHysteresis",
          "the lookup that drops at once and restores late: margin, headroom and rows to wait tuned",
          _GRID, tune="rapgym.baselines.frontier_hysteresis:tune"),
    Entry("forecast", "heuristic", "rapgym.baselines.forecast:Forecast",
          "least expected cost over how the limit went on in train where the past was like now",
          _GRID, tune="rapgym.baselines.forecast:tune"),
    Entry("forecast-plain", "heuristic", "rapgym.baselines.forecast:Plain",
          "the same, every part of the expected cost counted once: nothing is tuned", _GRID),
    Entry("hindsight", "learned", "rapgym.baselines.hindsight:Agent",
          "a small network that has seen what each set would have cost in every recorded row", _GRID,
          train="rapgym.baselines.hindsight:train"),
    Entry("forecast-hindsight", "learned", "rapgym.baselines.forecast_hindsight:Mean",
          "least mean of what forecast-plain and hindsight expect each set to cost", _GRID,
          runs_of="hindsight"),
    Entry("dqn", "learned", "rapgym.baselines.dqn:Agent",
          "RAP-style: DQN with masks drops block after block; it sees no table but greedy importance",
          _GRID, train="rapgym.baselines.dqn:train"),
    Entry("maskable_ppo", "learned", "rapgym.baselines.maskable_ppo:Agent",
          "PPO with masks drops block after block", _GRID,
          train="rapgym.baselines.maskable_ppo:train"),
    Entry("ppo_counts", "learned", "rapgym.baselines.ppo_counts:Agent",
          "PPO says how many attention and FFN blocks go, along the grid", _GRID,
          train="rapgym.baselines.ppo_counts:train"),
)  # fmt: skip


def starts() -> tuple[Entry, ...]:
    """Of every method that learns, its network as it was before the first step of training.

    It stands beside the method in a bench, and is no champion: nobody would choose it.
    """
    return tuple(
        replace(
            each,
            name=f"{each.name}-untrained",
            kind="reactive",
            summary=f"the network of {each.name} before its first step of training",
            start_of=each.name,
        )
        for each in POLICIES
        if each.train
    )


def entry(name: str) -> Entry:
    """The entry of this name; `module:Class` gives one for a user's own policy, FILE.npz one for a
    training run, whatever it was trained on.

    Raises:
        InvalidPolicy: there is none; the message lists those there are.
    """
    found = find(name)
    if found is None:
        known = ", ".join(each.name for each in POLICIES)
        raise InvalidPolicy(
            f"no policy is called {name!r}; there are {known}, or name your own as module:Class"
        )
    return found


def find(name: str) -> Entry | None:
    """What `entry` gives, None where nothing is called so.

    Raises:
        InvalidPolicy: it names a training run that cannot be read.
    """
    for found in (*POLICIES, *starts()):
        if found.name == name:
            return found
    if name.endswith(".npz"):
        run = trained.load(name)
        return replace(
            _method(run.method, name),
            name=name,
            summary=f"{run.method} of {run.scenario}",
            file=name,
        )
    if name.startswith(SAVED):
        target = "rapgym.learning.saved:SavedModel"
        return Entry(name, "learned", target, "a saved model of the user's", ())
    if ":" in name:
        return Entry(name, "heuristic", name, "a policy of the user's", ())
    return None


def _method(method: str, file: str) -> Entry:
    """The entry that reads a training run: what a file says chooses among rapgym's own, runs no other.

    Raises:
        InvalidPolicy: none does.
    """
    for found in POLICIES:
        if found.name == method and found.train:
            return found
    raise InvalidPolicy(
        f"{file} is of the method {method[:80]!r}, which this version does not train"
    )


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's module may raise anything, and even exit
        raise InvalidPolicy(f"{target} cannot be loaded: {error!r}") from error


def tuning(found: Entry) -> Callable[[Briefing], dict[str, Any]] | None:
    """What finds the free parameters of an entry on the briefing's split, where it has any."""
    tune: Callable[[Briefing], dict[str, Any]] | None = _load(found.tune) if found.tune else None
    return tune


def tuned() -> dict[str, Any]:
    """The committed settings: policy -> scenario -> {"train", "fit-1", ..., "table_sha256", ...}."""
    return json.loads(places.TUNED.read_text("utf-8")) if places.TUNED.is_file() else {}


def own_file() -> Path:
    """Where settings for scenarios on the user's own traces are kept: on this machine alone."""
    return checked.cache_folder() / places.TUNED.name


def own_tuned() -> dict[str, Any]:
    """What `own_file` holds; as `tuned` otherwise. A damaged file holds nothing: it is found anew."""
    try:
        found = json_text.parsed(incoming.bounded(own_file(), limits.SETTINGS))
    except (OSError, ValueError):
        return {}
    return {
        name: {key: kept for key, kept in stories.items() if isinstance(kept, dict)}
        for name, stories in (found.items() if isinstance(found, dict) else ())
        if isinstance(stories, dict)
    }


def kept_for(found: Entry, story: Scenario) -> dict[str, Any] | None:
    """What was found for an entry on a scenario, each split's settings and their basis; or nothing."""
    every = own_tuned() if story.is_own else tuned()
    kept: dict[str, Any] | None = every.get(found.name, {}).get(story.key)
    return kept


def settings(found: Entry, briefing: Briefing, seed: int = 0) -> dict[str, Any]:
    """The settings of an entry for a scenario, found on the briefing's split.

    Args:
        seed: of the training run, for an entry that learns.

    Raises:
        InvalidPolicy: it was not tuned or trained for this scenario as it is.
    """
    if found.reads:
        return _run(found, briefing, seed)
    if not found.tune:
        return found.options
    story = briefing.scenario
    kept = kept_for(found, story)
    stale = "" if kept is None else basis.changed(kept, story)
    if kept is None or stale or briefing.split not in kept:
        state = f"was tuned with another {stale}" if stale else "was not tuned"
        raise InvalidPolicy(
            f"{found.name} {state} for {story.id}; run: rapgym policies tune {found.name} "
            f"--scenario {shlex.quote(story.name)}"
        )
    return dict(kept[briefing.split])


def told(found: Entry, split: Told) -> Told:
    """Of which split the run of an entry that learns was told, that serves a briefing on `split`."""
    if found.file:
        return trained.load(found.file).told
    return split


def fold_seed(found: Entry, story: Scenario, fit: Told, seed: int) -> int:
    """Which seed's training run stands for an entry in a fold of cross-validation.

    That of `seed` where there is one, else the first: a method is trained once or more in each fold,
    more often on the whole of train. `seed` itself for what does not learn.
    """
    if not found.reads:
        return seed
    there = trained.seeds(found.reads, story, fit)
    return seed if seed in there or not there else there[0]


def knows_validation(found: Entry) -> bool:
    """Whether an entry may have seen the rows that champions are chosen by, or is not to be chosen.

    One training run is told of one split: it cannot be judged on every third of train.
    """
    return bool(found.start_of or found.file)


def trained_seeds(found: Entry, story: Scenario) -> list[int]:
    """The seeds of an entry that learns whose runs for a scenario are there, ascending."""
    if found.file:
        return [trained.load(found.file).seed]
    return trained.seeds(found.reads, story, told(found, "train"), untrained=bool(found.start_of))


def _run(found: Entry, briefing: Briefing, seed: int) -> dict[str, str]:
    """Which file of a training run serves a briefing, and the sha256 that it has.

    Raises:
        InvalidPolicy: there is none for this scenario as it is, or it opened what it may not.
    """
    story = briefing.scenario
    file = found.file or trained.place(
        found.reads, story, told(found, briefing.split), seed, untrained=bool(found.start_of)
    )
    remedy = f"run: rapgym train {found.reads} --scenario {shlex.quote(story.name)} --publish"
    try:
        run = trained.load(file)
    except InvalidPolicy as error:
        raise InvalidPolicy(f"{error}; {remedy}") from error
    if not found.file and (stale := basis.changed(run.rests_on, story)):
        raise InvalidPolicy(f"{file} was trained with another {stale} of {story.id}; {remedy}")
    run.check_held_out()
    return {"file": file, "sha256": checked.sha256_of(trained.path_of(file))}


def build(found: Entry, options: Mapping[str, Any], method: str = "propose") -> Any:
    """A policy object: of a window world, unless it is asked by another method.

    Raises:
        InvalidPolicy: it cannot be built, or lacks a method of the protocol.
    """
    made = _load(found.target)
    try:
        policy = made(**options)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InvalidPolicy(f"{found.target} cannot be built: {error!r}") from error
    if not all(callable(getattr(policy, name, None)) for name in ("reset", method)):
        raise InvalidPolicy(f"{found.target} needs the methods reset and {method}")
    return policy


def maker(policy: object, told: Briefing, seed: int = 0) -> Callable[[], Policy]:
    """What gives a policy object for each episode.

    Args:
        policy: an object with `reset` and `propose`, which serves them all; a class or factory that
            gives one without arguments; or a name that `entry` knows.
        seed: of the training run, for a name of a method that learns.

    Raises:
        InvalidPolicy: there is none of this name, or it is not tuned for this scenario. What is
            returned raises it where nothing can be built, or what is built is no policy.
    """
    if isinstance(policy, str):
        found = entry(policy)
        options = settings(found, told, seed)
        return lambda: build(found, options)
    is_object = hasattr(policy, "propose") and not isinstance(policy, type)

    def make() -> Policy:
        try:
            made: Any = policy if is_object else policy()  # type: ignore[operator]
        except Exception as error:
            raise InvalidPolicy(f"{policy!r} cannot be built without arguments: {error}") from error
        if not all(callable(getattr(made, name, None)) for name in ("reset", "propose")):
            raise InvalidPolicy(f"{made!r} needs the methods reset and propose")
        policy_made: Policy = made
        return policy_made

    return make
