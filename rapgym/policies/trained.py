"""Trained policies on disk: weights, what they expect to see, and how they came to be; no pickle.

One .npz file is one training run: a JSON header and NumPy arrays. It is loaded without torch and
without running anything that it holds, with limits on size.
"""

import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.errors import InvalidPolicy
from rapgym.files import checked, incoming, json_text, limits, places, writing
from rapgym.policies import basis
from rapgym.policies.policy import Told
from rapgym.scenarios.story import Scenario
from rapgym.workload import series
from rapgym.world import encoding
from rapgym.world.encoding import Layout

SCHEMA = 2
HEADER = "header"  # of the arrays in a file the one that holds JSON
KINDS = "fiub"  # of numbers that an array may hold
# What a run may have opened that is told of a split: nothing after it, and no test columns.
# A fold's rows are rows of train, so what is told of train may have opened any but those of test.
MAY_OPEN: Mapping[str, frozenset[str]] = {
    "train": frozenset(series.SPLITS) - {"test"},
    "learn": frozenset({"learn"}),
    **{f"fit-{k}": frozenset({f"fit-{k}", f"learn-{k}", f"check-{k}"}) for k in series.FOLDS},
    **{f"learn-{k}": frozenset({f"learn-{k}"}) for k in series.FOLDS},
}
_STEP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")  # of a name under places.TRAINED
_HEADER = {"method": str, "scenario": str, "told": str, "seed": int, "table_sha256": str,
           "workload_sha256": str, "world_sha256": str, "observation": dict, "training": dict}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrainedPolicy:
    """What one training run left."""

    method: str  # name of a registry entry
    scenario: str  # id of the scenario that it was trained on
    told: Told  # of which split's rows it may know: "train", or "fit-k" before validation-k
    seed: int
    table_sha256: str
    workload_sha256: str
    world_sha256: str
    # What it expects to see: of `observation_of` the schema, and whatever else it builds on. One that
    # finds its inputs by name, whatever their number, leaves `parts` out and carries over to other W.
    observation: dict[str, Any]
    training: dict[str, Any]  # settings, `opened`, steps, seconds, packages, date, commit, ...
    arrays: dict[str, np.ndarray]  # weights and normalisation; the method's own names

    @property
    def rests_on(self) -> dict[str, str]:
        """What `basis.basis` gave of the scenario that it was trained on."""
        return {name: getattr(self, name) for name in basis.NAMES}

    def check_layout(self, layout: Layout) -> None:
        """Whether it can read these observations.

        Raises:
            InvalidPolicy: they mean something else than those that it was trained on.
        """
        here = observation_of(layout)
        for name in ("schema", *self.observation):
            if name not in here or self.observation.get(name) != here[name]:
                raise InvalidPolicy(
                    f"{self.method} of {self.scenario} was trained on observations whose {name} is "
                    f"{self.observation.get(name)}, not {here.get(name)}: retrain it with rapgym train"
                )

    def check_held_out(self) -> None:
        """Whether its training kept to what it was told of, by its own account.

        Raises:
            InvalidPolicy: its provenance names rows or columns that it is judged on, or none at all.
        """
        opened = self.training.get("opened")
        if not isinstance(opened, list) or not opened:
            raise InvalidPolicy(f"{self.method}: its file does not say what its training opened")
        beyond = sorted({str(name) for name in opened} - MAY_OPEN[self.told])
        if beyond:
            raise InvalidPolicy(
                f"{self.method} of {self.scenario}, told of {self.told}, opened {', '.join(beyond)} "
                "while training: what it is judged on must be kept from it"
            )


def observation_of(layout: Layout) -> dict[str, Any]:
    """What identifies the observations of a layout: their version, and what stands where."""
    return {
        "schema": encoding.SCHEMA,
        "blocks": layout.blocks,
        "parts": [[part.name, part.size] for part in layout.parts],
    }


def place(method: str, story: Scenario, told: Told, seed: int, *, untrained: bool = False) -> str:
    """The name of a run's file under `places.TRAINED`, or of the user's in the cache.

    Args:
        untrained: of the network as it was before the first step.
    """
    return f"{method}/{story.key}/{_stage(untrained)}{told}-{seed}"


def _stage(untrained: bool) -> str:
    return "untrained-" if untrained else ""


def seeds(method: str, story: Scenario, told: Told, *, untrained: bool = False) -> list[int]:
    """Seeds of the runs that are there, ascending."""
    found = set()
    for folder in _folders():
        before = f"{_stage(untrained)}{told}-"
        for path in (folder / method / story.key).glob(f"{before}*.npz"):
            number = path.stem.removeprefix(before)
            if number.isdecimal():
                found.add(int(number))
    return sorted(found)


def _folders() -> tuple[Path, Path]:
    return places.TRAINED, checked.cache_folder() / "trained"


def path_of(file: str) -> Path:
    """Where a file lies that a name of `place`, or a path that ends in .npz, stands for.

    Raises:
        InvalidPolicy: there is none, or the name leads out of its folder.
    """
    if file.endswith(".npz"):
        if not _is_file(Path(file)):
            raise InvalidPolicy(f"{file[:200]} is not there; rapgym train makes such files")
        return Path(file)
    if not all(_STEP.fullmatch(step) for step in file.split("/")):
        raise InvalidPolicy(f"{file!r} is no name of a trained policy")
    for folder in _folders():
        path = folder / f"{file}.npz"
        if _is_file(path):
            return path
    raise InvalidPolicy(f"no trained policy {file[:200]}; make it with rapgym train --publish")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def load(file: str, sha256: str | None = None) -> TrainedPolicy:
    """A trained policy by name or path.

    Args:
        sha256: of the file it has to be; any where None.

    Raises:
        InvalidPolicy: it is not there, damaged, or another file than that.
    """
    path = path_of(file)
    if sha256 is not None and (found := checked.sha256_once(path)) != sha256:
        raise InvalidPolicy(
            f"{file} is not the policy that was meant (sha256 {found[:12]}..., not {sha256[:12]}...)"
        )
    state = path.stat()
    return _read_once(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _read_once(path: Path, size: int, changed_ns: int) -> TrainedPolicy:
    """What many policies share: a bench makes one for each pairing of each fold."""
    found = read(path)
    for array in found.arrays.values():
        array.setflags(write=False)
    return found


def write(path: Path, policy: TrainedPolicy) -> None:
    """Write aside, then rename. The same policy gives the same bytes."""
    header = {"schema": SCHEMA, **{name: getattr(policy, name) for name in _HEADER}}
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    with writing.written_aside(path) as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            **{HEADER: np.frombuffer(text.encode(), np.uint8), **policy.arrays},
        )


def read(path: Path) -> TrainedPolicy:
    """Read a file of `write`.

    Raises:
        InvalidPolicy: it is not there, damaged, too large or something else.
    """
    try:
        arrays = _arrays(incoming.bounded(path, limits.WEIGHTS))
        header = json_text.parsed(arrays.pop(HEADER).tobytes())
        if header.pop("schema") != SCHEMA:
            raise ValueError("it is of another schema")
        if {*header} != {*_HEADER} or any(
            type(header[name]) is not kind for name, kind in _HEADER.items()
        ):
            raise ValueError("its header is another")
        if header["told"] not in MAY_OPEN or header["seed"] < 0:
            raise ValueError("it does not say of which split it was told, or with which seed")
        return TrainedPolicy(**header, arrays=arrays)
    except FileNotFoundError:
        raise InvalidPolicy(f"{path} is not there; rapgym train makes such files") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError,
            NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise InvalidPolicy(f"{path} is no trained policy that can be read: {error}") from error


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; whatever it claims, no more than `limits.WEIGHTS` are unpacked."""
    # Each entry of an archive's directory begins so: they are counted before memory holds one.
    if content.count(b"PK\1\2") > limits.WEIGHTS_ARRAYS:
        raise ValueError(f"it holds more than {limits.WEIGHTS_ARRAYS} arrays")
    found, left = {}, limits.WEIGHTS
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        for entry in packed.infolist():
            # Of other kinds, zipfile unpacks as much as there is.
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("an array is packed in another way than NumPy does")
            told = _unpacked(packed, entry, left)
            left -= len(told)
            found[entry.filename.removesuffix(".npy")] = _array(told)
    return found


def _unpacked(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, most_bytes: int) -> bytes:
    """An entry's bytes, unpacked a piece at a time: its directory may say anything of their number."""
    pieces, total = [], 0
    with packed.open(entry) as file:
        # zipfile gives no more than is claimed; a read behind that would cost as much as the array.
        while piece := file.read(min(limits.PIECE, entry.file_size - total)):
            pieces.append(piece)
            total += len(piece)
            if total > most_bytes:
                raise ValueError(f"its arrays take more than {incoming.size(limits.WEIGHTS)}")
    return b"".join(pieces)


def _array(content: bytes) -> np.ndarray:
    """An array in NumPy's own format, which could also hold pickles, or claim to be enormous."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"an array is in version {version} of NumPy's format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    left = content[stream.tell() :]
    if dtype.kind not in KINDS or dtype.hasobject or math.prod(shape) * dtype.itemsize != len(left):
        raise ValueError("an array holds something else than its header says, or no numbers")
    array = np.frombuffer(left, dtype=dtype).reshape(shape, order="F" if fortran else "C").copy("K")
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("an array holds numbers that are not finite")
    return array
