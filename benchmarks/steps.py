"""Steps a second of each environment, alone and as a vector of 64 lanes."""

import time

import gymnasium
import numpy as np

import rapgym  # noqa: F401  # registers the environments

SECONDS, LANES = 2.0, 64


def rate(name: str, lanes: int) -> float:
    """Steps a second of all lanes together, random legal actions, observations included."""
    env = gymnasium.make_vec(name, lanes, scenario="chat-beside-code")
    _, info = env.reset(seed=0)
    rng, steps, begin = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS:
        if name == "RAP-v0":
            legal = info["action_mask"].astype(float)
            action = (legal * rng.random(legal.shape)).argmax(axis=1)
        else:
            action = env.action_space.sample()
        _, _, _, _, info = env.step(action)
        steps += lanes
    return steps / (time.perf_counter() - begin)


if __name__ == "__main__":
    for name in ("RAP-v0", "RAP-Counts-v0", "RAP-KeptSet-v0"):
        one, many = rate(name, 1), rate(name, LANES)
        print(
            f"{name:<16} {one:8,.0f} alone   {many:9,.0f} with {LANES} lanes   {many / one:.0f} x"
        )
