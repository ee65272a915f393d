"""The serving environment: a thin shell around one lane."""

from collections.abc import Mapping
from typing import Any

from rapgym.envs import screen
from rapgym.envs.serve_play import ServePlay
from rapgym.envs.single_form import SingleForm
from rapgym.scenarios.serving import ServeScenario, story_of
from rapgym.scenarios.story import Split
from rapgym.serving import sight

DEFAULT = "serve-days-mid"


class ServeEnv(SingleForm):
    """How much of a model stays in memory while it serves, decided anew each second.

    **Description.** One replica behind a queue batches continuously, as vLLM V1 does, on a card whose
    free memory moves. What a decision does lasts: a queue is paid for later, a sequence keeps the damage
    of what it was prefilled with, a freed byte is room for another request. See `rapgym.serving.engine`.

    **Action space.** MultiDiscrete([A + 1, F + 1, 2]): attention and FFN blocks dropped, along the
    table's attention-only and FFN-only orders, and what goes first where memory falls below what is in
    use: 0 the last admitted sequences, 1 blocks. An engine that does not prune is (0, 0, 0). All are
    legal; `info["action_mask"]` and `action_masks()` say so.

    **Observation space.** float32 [O], all from 0 up; `sight.PARTS` names every part, its unit and its
    range, `sight.SLICES` where it lies (`env.unwrapped.layout`). Nothing of the future is in it.

    **Rewards.** Minus the cost charged in this second, nats: of each output token what it was computed
    under and how late it came, C for each token shed; over the mean output tokens of a second of train.
    `info` has the three terms, and every count and measure of the second: `rapgym.serving.batch.COLUMNS`.
    Rewards speak of calibration columns on every split.

    **Starting state.** An idle engine with every block in memory. On `train`, `fit-k` and `learn` the first
    second is drawn from the seed; elsewhere `piece` says which hour of the split it is.

    **Episode end.** Truncated after 600 s on `train`, `fit-k` and `learn`, after the hour elsewhere (the
    last of a stretch may be shorter). What is in flight then is served on under the decision that
    stands and charged to the last step; what is not delivered after 600 s more costs C.

    **Faults.** An action that cannot be read, or is outside the space, raises `InvalidAction`, and so
    does a step before `reset` or after the end.

    **Arguments.**

    - `scenario`: the name of a serving scenario, a `.toml` file, a `ServeScenario` or its fields.
    - `split`: `train` and its parts `learn` and `check`; `fit-1` to `fit-3` and `validation-1` to
      `validation-3`, for cross-validation; `test`.
    - `piece`: which hour of a whole split; `reset(options={"piece": 3})` names one too, and
      `env.unwrapped.world.pieces` lists them.
    - `observation`: `flat`, or `dict`: the same and the mask.
    - `render_mode`: `ansi` gives words and a bar of memory; `rgb_array` and `human` draw a minute of memory
      by kind under its limit, the queue, tokens on time, late and never, and the blocks kept. These two
      need the extra `render`.

    **Version history.** v0: first version.
    """

    def __init__(
        self,
        scenario: str | ServeScenario | Mapping[str, Any] = DEFAULT,
        split: Split = "train",
        piece: int = 0,
        observation: str = "flat",
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = screen.checked(render_mode)
        play = ServePlay(
            [story_of(scenario)],
            split,
            observation=observation,
            piece=piece,
            filmed=render_mode is not None,
        )
        self._stand(play)
        self.world = play.worlds[0]
        self.layout = sight.SLICES
