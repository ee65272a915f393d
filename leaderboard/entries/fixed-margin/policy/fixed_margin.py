"""An example of an entry: the frontier lookup that leaves a fixed part of the card free.

It is written as a user would write it, from the briefing alone, and nothing of it is tuned.
"""

import numpy as np

FREE = 0.02  # share of the card


class FixedMargin:
    """At each row the best set of the table's grid that fits beside the margin."""

    def reset(self, batch, briefing):
        self.briefing = briefing
        kept = briefing.quality.grid_kept.reshape(-1, briefing.layout.blocks)
        self.kept = kept[np.argsort(briefing.quality.grid_nll.ravel(), kind="stable")]
        self.free_bytes = int(FREE * briefing.layout.card_bytes)

    def propose(self, observation, rng):
        seen = self.briefing.read(observation)
        proposal = np.empty((len(observation), self.kept.shape[1]), dtype=bool)
        for lane in range(len(observation)):
            used = self.briefing.footprint.used_bytes(
                self.kept, seen.tokens[lane], seen.prompt_tokens[lane]
            )
            fits = used <= seen.limit_bytes[lane] - self.free_bytes
            proposal[lane] = self.kept[fits.argmax() if fits.any() else used.argmin()]
        return proposal
