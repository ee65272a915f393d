"""Steps a second of each environment beside Gymnasium's native CartPole, all in turns in one run.

    python benchmarks/steps.py [--lanes 1 64 1024] [--scenario chat-beside-code] [--rounds 100] [--out FILE]

In every round each environment takes one step, so that what else the machine does meets all alike. Time is
what the processor spent on this thread: waiting for it does not count, sharing it does, so only ratios mean
anything on a busy machine. The same environment by envpool and by gymnax stands beside Gymnasium's where they
are installed (pip install envpool gymnax six), each on one thread, and by the clock, for they work in threads
of their own. Random legal actions that do not repeat, so sets without a row are met
anew; resets, observations and info are part of a step. `reference` is RAP-Counts-v0 served by the reference
alone. The mean counts what few steps take long (resets), the median does not. Then, for the most lanes: the
time of a reset of all, and what the lanes add to the memory of a process that has imported what it needs.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import rapgym
from rapgym.files import provenance, writing
from rapgym.world import pace

TIMES_ALONE = 10  # rounds of a single environment, whose steps are short, for one of a vector
NAMES = ("RAP-v0", "RAP-Counts-v0", "RAP-KeptSet-v0")
PEER, REFERENCE = "CartPole-v1", "reference"
COMPILED = ("envpool", "gymnax")  # peers that compile, by the module that each needs


class Runner:
    """One environment and the time that its steps took."""

    def __init__(self, name: str, lanes: int, scenario: str) -> None:
        own = "RAP-Counts-v0" if name == REFERENCE else name
        settings: dict[str, Any] = {} if name == PEER else {"scenario": scenario}
        made: Any
        if lanes == 1:  # as a learner steps one environment
            made = gymnasium.make(own, disable_env_checker=True, **settings)
        else:
            made = gymnasium.make_vec(own, lanes, "vector_entry_point", **settings)
        self.name, self.env, self.lanes, self.seconds = name, made, lanes, list[float]()
        self.rng = np.random.default_rng(0)
        self.env.action_space.seed(0)
        _, self.info = self.env.reset(seed=0)

    def action(self) -> Any:
        if self.name != "RAP-v0":
            return self.env.action_space.sample()
        legal = self.info["action_mask"].astype(float)
        return (legal * self.rng.random(legal.shape)).argmax(axis=-1)

    def step(self) -> None:
        action = self.action()
        begun = time.thread_time()
        _, _, terminated, truncated, self.info = self.env.step(action)
        if self.lanes == 1 and (terminated or truncated):
            _, self.info = self.env.reset()
        self.seconds.append(time.thread_time() - begun)

    def warm(self) -> None:
        """Step until the compiled twin is loaded and lanes have been reset by it."""
        steps_a_row = 24 if self.name == "RAP-v0" else 1
        for _ in range(steps_a_row * (pace.REFERENCE_ROWS // self.lanes + 66)):
            self.step()
        self.seconds.clear()


class Envpool(Runner):
    """The peer in C++, one thread; of one lane a batch of one."""

    def __init__(self, lanes: int) -> None:
        import envpool

        self.name, self.lanes, self.seconds = f"{PEER} of envpool", lanes, list[float]()
        self.env = envpool.make_gymnasium(PEER, num_envs=lanes, num_threads=1)
        self.rng = np.random.default_rng(0)
        self.env.reset()

    def step(self) -> None:
        action = self.rng.integers(2, size=self.lanes)
        begun = time.perf_counter()
        self.env.step(action)
        self.seconds.append(time.perf_counter() - begun)


class Gymnax(Runner):
    """The peer compiled by JAX, lanes mapped over, what is observed on the host."""

    def __init__(self, lanes: int) -> None:
        # Read when JAX is first imported.
        one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {one}"
        import gymnax
        import jax

        self.name, self.lanes, self.seconds = f"{PEER} of gymnax", lanes, list[float]()
        self.rng = np.random.default_rng(0)
        env, params = gymnax.make(PEER)

        def step(key: Any, state: Any, action: Any) -> Any:
            key, own = jax.random.split(key)
            keys = jax.random.split(own, lanes)
            return key, *jax.vmap(env.step, (0, 0, 0, None))(keys, state, action, params)

        self._step, self._key = jax.jit(step), jax.random.key(0)
        keys = jax.random.split(self._key, lanes)
        _, self._state = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)

    def step(self) -> None:
        action = self.rng.integers(2, size=self.lanes)
        begun = time.perf_counter()
        self._key, seen, self._state, *said = self._step(self._key, self._state, action)
        for each in (seen, *said[:-1]):
            np.asarray(each)
        self.seconds.append(time.perf_counter() - begun)


def peers(lanes: int) -> list[Runner]:
    """Those that are installed."""
    made = {"envpool": Envpool, "gymnax": Gymnax}
    return [made[name](lanes) for name in COMPILED if importlib.util.find_spec(name)]


def measured(lanes: int, scenario: str, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of a step, and its rate over that of the peer, by name."""
    runners = [*(Runner(name, lanes, scenario) for name in (*NAMES, PEER)), *peers(lanes)]
    for runner in runners:
        runner.warm()
    usual, pace.REFERENCE_ROWS = pace.REFERENCE_ROWS, 1 << 62
    try:
        slow = Runner(REFERENCE, lanes, scenario)
        slow.step()
        slow.seconds.clear()
        for _ in range(rounds):
            for runner in (*runners, slow):
                runner.step()
    finally:
        pace.REFERENCE_ROWS = usual
    spent = {runner.name: np.array(runner.seconds) * 1e6 for runner in (*runners, slow)}
    return {
        name: {
            "mean_us": round(float(values.mean()), 1),
            "median_us": round(float(np.median(values)), 1),
            "of_peer_mean": round(float(spent[PEER].mean() / values.mean()), 4),
            "of_peer_median": round(float(np.median(spent[PEER]) / np.median(values)), 4),
        }
        for name, values in spent.items()
    }


def reset_us(name: str, lanes: int, scenario: str) -> float:
    """Microseconds that it takes to begin an episode in all lanes, compiled code at hand; the median of nine."""
    runner, spent = Runner(name, lanes, scenario), []
    runner.warm()
    for _ in range(9):
        begun = time.thread_time()
        runner.env.reset()
        spent.append((time.thread_time() - begun) * 1e6)
    return round(float(np.median(spent)), 1)


MEMORY = """
import re, sys, gymnasium, numpy, pandas, numba, rapgym
from rapgym.envs import vector_env
from rapgym.world import stride

def kib(entry):
    return int(re.search(entry + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

sys.path.insert(0, {folder!r})
import steps
before = kib("VmRSS")
runner = steps.Runner({name!r}, {lanes}, {scenario!r})
runner.warm()
print(kib("VmHWM") - before)
"""


def added_mib(name: str, lanes: int, scenario: str) -> float:
    """MiB that so many lanes add, at most, to a process that has imported everything (Linux)."""
    code = MEMORY.format(
        folder=str(Path(__file__).parent), name=name, lanes=lanes, scenario=scenario
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return round(int(done.stdout) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--scenario", default="chat-beside-code")
    parser.add_argument("--rounds", type=int, default=100, help="of vectors")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = {}
    for lanes in asked.lanes:
        part = found[str(lanes)] = measured(
            lanes, asked.scenario, asked.rounds * (TIMES_ALONE if lanes == 1 else 1)
        )
        for name, values in part.items():
            print(
                f"{lanes:5} lanes  {name:<23} {values['mean_us']:9,.0f} us mean "
                f"{values['median_us']:9,.0f} median   {values['of_peer_mean']:7.3f} of {PEER}'s rate"
            )
    most, of_all = max(asked.lanes), {}
    for name in NAMES if most > 1 else ():
        of_all[name] = {
            "reset_us": reset_us(name, most, asked.scenario),
            "added_mib": added_mib(name, most, asked.scenario),
        }
        print(
            f"{most:5} lanes  {name:<23} {of_all[name]['reset_us']:9,.0f} us a reset of all, "
            f"{of_all[name]['added_mib']:6.0f} MiB added"
        )
    if asked.out:
        content = {"command": "python benchmarks/steps.py", "scenario": asked.scenario,
                   "rounds": asked.rounds, "lanes": found, "of_all": of_all, "rapgym": rapgym.__version__,
                   "python": platform.python_version(), "numpy": np.__version__,
                   "gymnasium": gymnasium.__version__,
                   "peers": {name: importlib.metadata.version(name) for name in COMPILED
                             if importlib.util.find_spec(name)},
                   "machine": f"{platform.machine()} {platform.system()}",
                   "commit": provenance.commit()}  # fmt: skip
        with writing.written_aside(asked.out) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
