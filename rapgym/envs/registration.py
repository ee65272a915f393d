"""The ids under which Gymnasium finds the environments; importing rapgym registers them.

Apart from the environments themselves, so that importing rapgym loads Gymnasium and nothing more.
"""

import gymnasium

# Each id, and the action space behind it: see `rapgym.envs.actions`.
IDS = {"RAP-v0": "blocks", "RAP-Counts-v0": "counts", "RAP-KeptSet-v0": "kept-set"}
SERVE_ID = "RAP-Serve-v0"  # the serving engine: decisions whose consequences last


def register_all() -> None:
    """Make the ids known to Gymnasium, each also as `rapgym/<id>`; twice does no harm."""
    for name, kind in IDS.items():
        _register(name, "env:RapEnv", "vector_env:RapVectorEnv", {"actions": kind})
    _register(SERVE_ID, "serve_env:ServeEnv", "serve_vector_env:ServeVectorEnv", {})


def _register(name: str, single: str, vector: str, kwargs: dict[str, str]) -> None:
    for env_id in (name, f"rapgym/{name}"):
        if env_id not in gymnasium.registry:  # a subprocess may import the package twice
            gymnasium.register(
                env_id,
                entry_point=f"rapgym.envs.{single}",
                vector_entry_point=f"rapgym.envs.{vector}",
                kwargs=kwargs,
                # How long an episode is, its split says: see `RapEnv`. No reward is "solved".
                max_episode_steps=None,
                reward_threshold=None,
                nondeterministic=False,
            )
