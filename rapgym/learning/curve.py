"""The learning curve of a training run: as CSV, and for TensorBoard where it is installed."""

import csv
import importlib.util
import io
from pathlib import Path
from typing import Any

from rapgym.files import writing

Point = dict[str, float]  # share, steps, seconds, check_cost, and the method's own numbers

FIRST = ("share", "steps", "seconds", "check_cost")


class Curve:
    """Points as they come; each rewrites the CSV, so that it never tells of a lost part of a run."""

    def __init__(self, folder: Path, points: list[Point]) -> None:
        """Go on after `points`, in files of this folder."""
        self.path = folder / "curve.csv"
        self.points = [dict(point) for point in points]
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            after = int(points[-1]["steps"]) + 1 if points else 0
            self._board = SummaryWriter(str(folder), purge_step=after)

    def add(self, point: Point) -> None:
        """Keep a point."""
        self.points.append(dict(point))
        names = list(dict.fromkeys([*FIRST, *(name for each in self.points for name in each)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({n: f"{v:.8g}" for n, v in each.items()} for each in self.points)
        with writing.written_aside(self.path) as file:
            file.write(text.getvalue().encode())
        if self._board is not None:
            for name, value in point.items():
                if name != "steps":
                    self._board.add_scalar(name, value, int(point["steps"]))

    def close(self) -> None:
        """Let go of TensorBoard's file."""
        if self._board is not None:
            self._board.close()
