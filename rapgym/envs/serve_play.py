"""What the serving environment and its vector form share: lanes, decisions, when episodes end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.envs.episodes import Episodes
from rapgym.envs.film import Picture
from rapgym.envs.serve_film import ServeFilm, text
from rapgym.errors import InvalidSpec
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.lanes import is_stretch
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import Split
from rapgym.serving import batch, sight
from rapgym.serving.batch import Batch
from rapgym.serving.world import ServeWorld

TRAIN_EPISODE_S = 600
ASKED = ("attention_asked", "ffn_asked", "on_fall")  # the decision, as it was given
TERMS = ("quality", "lateness", "undelivered")  # they add up to minus the reward


def decision_space(attention: int, ffn: int) -> spaces.MultiDiscrete:
    """Of a model of which so many blocks of each kind may be dropped."""
    return spaces.MultiDiscrete([attention + 1, ffn + 1, 2])


class Decisions:
    """MultiDiscrete([A + 1, F + 1, 2]): attention and FFN blocks dropped, and the standing order."""

    so_far: BoolArray | None = None

    def __init__(self, world: ServeWorld, lanes: int) -> None:
        self._lanes = lanes
        self.space = decision_space(world.attention, world.ffn)
        self.highest: IntArray = np.array([world.attention, world.ffn, 1])

    def legal(self) -> BoolArray:
        """bool [B, A + F + 4]: everything is legal."""
        return np.ones((self._lanes, int(self.space.nvec.sum())), dtype=bool)

    def mask(self) -> NDArray[np.int8]:
        """The same as int8."""
        return self.legal().astype(np.int8)


@dataclass(frozen=True, slots=True)
class Acted:
    """What one second did in B lanes."""

    served: BoolArray  # lanes that served a second, [B]
    over: BoolArray  # lanes whose episode is over, [B]
    asked: IntArray  # decisions, [B, 3]
    record: FloatArray  # columns of `batch.COLUMNS`, 0 where none was served, [B, K]
    terms: FloatArray  # of the negative reward: `TERMS`, [B, 3]

    @property
    def reward(self) -> FloatArray:
        """float64 [B]."""
        reward: FloatArray = 0.0 - self.terms.sum(axis=1)
        return reward


class ServePlay(Episodes):
    """Episodes of the serving engine."""

    option = "piece"

    def __init__(
        self,
        stories: Sequence[ServeScenario],
        split: Split,
        *,
        observation: str = "flat",
        piece: int = 0,
        most_steps: int | None = None,
        filmed: bool = False,
    ) -> None:
        """Stand a lane for each story where no episode has begun.

        Args:
            most_steps: after which an episode is cut; seconds alone end it unless stated.
            filmed: seconds are kept for pictures.

        Raises:
            InvalidSpec: an argument is none of those there are, or the stories have different numbers of
                blocks to drop.
            DataUnavailable: what a story is made of is not on this machine.
        """
        count = len(stories)
        super().__init__(count, place=piece, observation=observation, most_steps=most_steps)
        self.split = split
        self.worlds = [serving_worlds.world(story, split) for story in stories]
        shapes = {(world.attention, world.ffn) for world in self.worlds}
        if len(shapes) > 1:
            raise InvalidSpec(
                "lanes of one environment drop the same numbers of blocks; these scenarios' tables "
                f"allow (attention, FFN) {', '.join(map(str, sorted(shapes)))}"
            )
        self.stories = list(stories)
        self.batch = Batch(self.worlds)
        self.actions = Decisions(self.worlds[0], count)
        self.films = [
            ServeFilm(world, f"{story.name}, {split}" + (f", lane {lane}" if count > 1 else ""))
            for lane, (world, story) in enumerate(zip(self.worlds, stories, strict=True))
            if filmed
        ]
        self.seconds = np.zeros(count, dtype=np.int64)  # that each lane's episode has
        self._ceiling = np.array([world.harm.ceiling for world in self.worlds])
        self._mean_tokens = np.array([world.means.output_tokens for world in self.worlds])

    @property
    def longest(self) -> int:
        """What no episode takes more seconds than."""
        longest = max(part.seconds for world in self.worlds for part in world.pieces)
        if not is_stretch(self.split):
            return longest
        spans = [span.seconds for world in self.worlds for span in world.spans]
        return min(TRAIN_EPISODE_S, max(spans))

    @property
    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest of each number that a lane sees, [O] each."""
        high = sight.HIGHEST.astype(np.float32)
        return np.zeros_like(high), high

    def begin(self, lanes: BoolArray, rngs: list[np.random.Generator]) -> None:
        """Begin an episode in these lanes, bool [B], each from its own generator.

        Raises:
            InvalidSpec: the split has no such piece.
        """
        for lane in np.flatnonzero(lanes).tolist():
            world = self.worlds[lane]
            if is_stretch(self.split):
                part = world.drawn(TRAIN_EPISODE_S, rngs[lane])
            else:
                pieces, place = world.pieces, int(self.places[lane])
                if place >= len(pieces):
                    raise InvalidSpec(
                        f"{self.split} of {self.stories[lane].name} has pieces 0 to "
                        f"{len(pieces) - 1}, not {place}"
                    )
                part = pieces[place]
            self.batch.begin(lane, part)
            self.seconds[lane] = part.seconds
            if self.films:
                self.films[lane].begin(part.seconds)
        self.batch.look(lanes)
        self._have_begun(lanes)

    def act(self, actions: IntArray, lanes: BoolArray | None = None) -> Acted:
        """Serve a second in these lanes (all unless stated); actions of the others are ignored.

        Args:
            actions: of all lanes, as `read` gives them.

        Raises:
            InvalidAction: an episode has not begun yet, or is over.
        """
        lanes = self._acting(lanes)
        self.batch.advance(actions, lanes)
        self.steps[lanes] += 1
        over = self._ended(lanes, lanes & (self.steps >= self.seconds))
        record = np.where(lanes[:, None], self.batch.record, 0.0)
        asked = np.where(lanes[:, None], actions, 0)
        acted = Acted(lanes.copy(), over, asked, record, self._terms(record))
        if self.films:
            for lane in np.flatnonzero(lanes).tolist():
                told = dict(zip(batch.COLUMNS, record[lane].tolist(), strict=True))
                self.films[lane].add(told, asked[lane], -float(acted.reward[lane]))
        return acted

    def _terms(self, record: FloatArray) -> FloatArray:
        """Of the cost in units of train's mean output tokens a second, [B, 3]."""
        nats, cost = record[:, batch.NATS], record[:, batch.COST]
        lost = (record[:, batch.SHED_TOKENS] + record[:, batch.LOST]) * self._ceiling
        terms = np.stack([nats, cost - nats - lost, lost], axis=1)
        found: FloatArray = terms / self._mean_tokens[:, None]
        return found

    def seen(self) -> NDArray[np.float32]:
        """What each lane sees, [B, O]."""
        return self.batch.seen.copy()

    def info(self, acted: Acted | None = None) -> dict[str, Any]:
        """What a step says of each lane: arrays [B], the caller's own; 0 where no second was served.

        `loading` is 0 where no block is on its way back, 1 for attention, 2 for FFN.
        """
        count, width = len(self.worlds), len(batch.COLUMNS)
        if acted is None:
            served, asked = np.zeros(count, dtype=bool), np.zeros((count, 3), dtype=np.int64)
            record: FloatArray = np.zeros((count, width))
            terms: FloatArray = np.zeros((count, len(TERMS)))
        else:
            served, asked, record, terms = acted.served, acted.asked, acted.record, acted.terms
        info: dict[str, Any] = {"served": served.copy()}
        info |= {name: asked[:, place].copy() for place, name in enumerate(ASKED)}
        whole_columns = len(batch.WHOLE)
        counts = record[:, :whole_columns].astype(np.int64)
        counts[:, batch.LOADING] += served
        info |= {name: counts[:, place].copy() for place, name in enumerate(batch.WHOLE)}
        for place, name in enumerate(batch.MEASURES, whole_columns):
            info[name] = record[:, place].copy()
        info |= {name: terms[:, place].copy() for place, name in enumerate(TERMS)}
        return info | {"action_mask": self.actions.mask()}

    def text(self, lane: int) -> str:
        """The seconds of late of one lane, in words; for lanes that are filmed."""
        return text(self.films[lane])

    def picture(self, lane: int) -> Picture:
        """The same as a picture, uint8 [height, width, 3]."""
        from rapgym.envs.serve_picture import draw

        return draw(self.films[lane])

    def close(self) -> None:
        self.batch.close()
