"""Training runs as the command line asks for them: what there is to do, doing it, publishing it."""

import dataclasses
import datetime
import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rapgym import heldout
from rapgym.errors import InvalidPolicy
from rapgym.files import checked, places, provenance, writing
from rapgym.jobs.parallel import processors
from rapgym.learning.training import PARTS, Training
from rapgym.policies import trained
from rapgym.policies.basis import basis
from rapgym.policies.policy import Told
from rapgym.policies.trained import TrainedPolicy
from rapgym.scenarios.story import Scenario

PACKAGES = ("numpy", "torch", "stable-baselines3", "sb3-contrib", "gymnasium")
NEEDS = ("Settings", "Agent", "train")  # of the module of a method that learns
POLICY_FILE, UNTRAINED_FILE = "policy.npz", "untrained.npz"


def module_of(method: str) -> Any:
    """The module of a method that learns: `Settings`, the NumPy policy class `Agent`, and `train`.

    Raises:
        InvalidPolicy: there is none.
    """
    name = f"rapgym.baselines.{method.replace('-', '_')}"
    module = importlib.import_module(name) if importlib.util.find_spec(name) else None
    if module is None or not all(hasattr(module, each) for each in NEEDS):
        known = ", ".join(methods())
        raise InvalidPolicy(f"{method!r} does not learn; there are {known}")
    return module


def methods() -> list[str]:
    """Methods that learn, by name."""
    return sorted(
        path.stem
        for path in places.BASELINES.glob("*.py")
        if "def train(" in path.read_text("utf-8")
    )


def settings_of(method: str, texts: Mapping[str, str]) -> Any:
    """A method's settings, some of them stated as text.

    Raises:
        InvalidPolicy: there is no such setting, or its value is none.
    """
    initial = module_of(method).Settings()
    known = {field.name: getattr(initial, field.name) for field in dataclasses.fields(initial)}
    stated = {}
    for name, text in texts.items():
        if name not in known:
            raise InvalidPolicy(f"{method} has no setting {name}; there are {', '.join(known)}")
        try:
            stated[name] = _read(text, known[name])
        except ValueError as error:
            raise InvalidPolicy(f"{name} of {method} cannot be {text!r}: {error}") from error
    return dataclasses.replace(initial, **stated)


def _read(text: str, like: Any) -> Any:
    """A text as a value of the same type: bool, int, float, str, or a tuple of one of them."""
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError("it is true or false")
        return text.lower() == "true"
    if isinstance(like, tuple):
        return tuple(_read(part, like[0] if like else "") for part in text.split(",") if part)
    return type(like)(text)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: everything that decides its result, and where it is written."""

    method: str
    story: Scenario
    told: Told
    seed: int
    settings: Any
    out: Path
    start: str = ""  # a policy, by name or path, whose weights it begins with
    minutes: float | None = None

    @property
    def folder(self) -> Path:
        """Where its files are."""
        place = trained.place(self.method, self.story, self.told, self.seed)
        return self.out.joinpath(*place.split("/"))

    @property
    def path(self) -> Path:
        """Where its policy is once it has finished."""
        return self.folder / POLICY_FILE

    def finished(self) -> TrainedPolicy | None:
        """Its policy, if this very run was finished before."""
        if not self.path.is_file():
            return None
        try:
            found = trained.read(self.path)
        except InvalidPolicy:
            return None
        wanted = _plain(dataclasses.asdict(self.settings)) | basis(self.story)
        told = found.training.get("settings", {}) | found.rests_on
        same = told == wanted and found.training.get("start") == self._start_record()
        return found if same else None

    def do(
        self,
        watch: Callable[[float, str], None] = lambda share, note: None,
        checkpoint_s: float | None = None,
    ) -> "Done":
        """Train, or go on with it, or read what was finished; the policy is written at the end.

        Raises:
            HeldOut: the method asks for rows or columns that are kept from it.
            InvalidPolicy: it does not do what a method that learns does.
        """
        if (found := self.finished()) is not None:
            return Done(self, found.training["check_cost"], found.training["seconds"], True)
        module = module_of(self.method)
        torch.set_num_threads(1)  # runs stand side by side, and one thread repeats itself
        start = trained.read(trained.path_of(self.start)) if self.start else None
        options = {} if checkpoint_s is None else {"checkpoint_s": checkpoint_s}
        if self.told not in PARTS:
            raise InvalidPolicy(f"nothing is trained on {self.told}; there are {', '.join(PARTS)}")
        writing.made(self.folder)
        with heldout.only(*PARTS[self.told]) as opened:
            task = Training(self.method, self.story, self.told, self.seed, self.settings,
                            module.Agent, self.folder, start=start, minutes=self.minutes,
                            watch=watch, **options)  # fmt: skip
            try:
                arrays = module.train(task)
                cost = task.check(arrays)
            finally:
                task.close()
        training = self._provenance(task, cost, sorted(opened))
        if task.untrained:
            trained.write(self.folder / UNTRAINED_FILE, task.policy(task.untrained, training))
        trained.write(self.path, task.policy(arrays, training))
        task.forget()
        return Done(self, cost, training["seconds"], False)

    def in_the_way(self, *, publish: bool) -> Path | None:
        """A policy of another run that this one would overwrite, in its folder or where it is published."""
        here = self.finished()
        if here is None and self.path.is_file():
            return self.path
        there, _ = self._published()
        if not publish or not there.is_file():
            return None
        same = here is not None and checked.sha256_of(there) == checked.sha256_of(self.path)
        return None if same else there

    def _published(self) -> tuple[Path, Path]:
        """Where its policy is published, and the network with which it began."""
        own = checked.cache_folder() / "trained"
        folder = own if self.story.is_own else places.TRAINED
        what = self.method, self.story, self.told, self.seed
        path, began = (
            folder.joinpath(*f"{trained.place(*what, untrained=untrained)}.npz".split("/"))
            for untrained in (False, True)
        )
        return path, began

    def publish(self) -> Path:
        """Copy the policy to where policies are looked for: the package, or the cache of own traces.

        With it goes the network with which it began, which stands beside it in a bench.
        """
        path, began = self._published()
        for here, there in ((self.path.with_name(UNTRAINED_FILE), began), (self.path, path)):
            if here.is_file():  # a run of an earlier edition did not keep how it began
                with writing.written_aside(there) as file, here.open("rb") as source:
                    shutil.copyfileobj(source, file)
        return path

    def _start_record(self) -> dict[str, str] | None:
        if not self.start:
            return None
        path = trained.path_of(self.start)
        return {"name": self.start, "sha256": checked.sha256_of(path)}

    def _provenance(self, task: Training, cost: float, opened: list[str]) -> dict[str, Any]:
        points = task.curve.points
        best = min(points, key=lambda point: point["check_cost"]) if points else {}
        return {
            "settings": _plain(dataclasses.asdict(self.settings)),
            "start": self._start_record(),
            "opened": opened,
            "learned_on": task.learn_split,
            "checked_on": task.check_split,
            "check_cost": cost,
            "best": best,
            "checks": len(points),
            "steps": int(points[-1]["steps"]) if points else 0,
            "seconds": round(task.seconds, 1),
            "stopped_by_clock": self.minutes is not None,
            "packages": {name: _version(name) for name in PACKAGES},
            "machine": machine(task.device),
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "commit": provenance.commit() or "",
        }


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a run."""

    run: Run
    check_cost: float  # nats an output token
    seconds: float  # wall clock of the run, also where it was finished before
    was_there: bool


def machine(device: str) -> str:
    """Where a run was trained, in words."""
    if device != "cpu":
        return f"one {torch.cuda.get_device_name(device)}"
    return f"one core of {processors()}, {platform.machine()} {platform.system()}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()}
