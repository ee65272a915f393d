"""A live model, its tenant and its meters put together on one device."""

import os
from contextlib import ExitStack
from typing import Any

import torch

from rapgym.errors import InvalidSpec
from rapgym.runtime import model, probe
from rapgym.runtime.device.step import DeviceStep, Holder, Meter
from rapgym.runtime.device.tenant import Tenant
from rapgym.runtime.gpu_probe import AllocatorProbe
from rapgym.runtime.live.elastic import ElasticModel
from rapgym.runtime.live.requests import RowRequests
from rapgym.runtime.live.row import LiveServer
from rapgym.runtime.measure import origins
from rapgym.scenarios import card, tables
from rapgym.scenarios.story import Scenario, Split

# oneDNN keeps what it compiled for so many shapes, weights in its own order among it.
COMPILED_SHAPES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
CHUNK_TOKENS = 128  # a row on a CPU has about a thousand prompt tokens, in W seconds


class HostMeter:
    """Bytes that this process has on the card: anonymous memory above what is the host's.

    Interpreter, libraries, tokenizer and texts are the host's: what there is beside the weights
    once a model is loaded.
    """

    def __init__(self, weight_bytes: int) -> None:
        """Take the host's part; `weight_bytes` are in memory now."""
        probe.trim()
        self._probe = probe.ProcessProbe()
        self.host_bytes = self._probe.used_bytes() - weight_bytes

    def reset_peak(self) -> None:
        """Count the peak from now on; what the allocator holds in vain is given back first."""
        probe.trim()
        self._probe.reset_peak()

    def peak_bytes(self) -> int:
        return self._probe.peak_bytes() - self.host_bytes


class Machine:
    """A model on a device that serves rows of one split; close it in the end."""

    def __init__(
        self, story: Scenario, split: Split, device: str, *, chunk_tokens: int = CHUNK_TOKENS
    ) -> None:
        """Load the model that the scenario's table was measured on.

        Raises:
            InvalidSpec: the scenario's weights or KV cache are in a format that is not served; or the
                model of its table does not stand in for the served one.
            DataUnavailable: weights or texts are not here; the message says how to get them.
        """
        if (story.form.weights, story.form.kv) != ("bf16", "bf16"):
            raise InvalidSpec(f"{story.name}: a device serves bf16 weights and bf16 KV cache")
        if not story.stand_in:
            raise InvalidSpec(f"{story.name}: a device serves the table's model: it needs stand_in")
        os.environ.setdefault(*COMPILED_SHAPES)
        self.story, self.split = story, split
        table = tables.table(story)
        with ExitStack() as ends:
            loaded = model.load(table.model, device=device)
            self.model = ends.enter_context(ElasticModel(loaded))
            requests = RowRequests(story, split, loaded.tokenizer)
            self.server = LiveServer(self.model, requests, chunk_tokens=chunk_tokens)
            self.device = torch.device(device)
            # Freed memory goes back to the system, so that bytes of the process are bytes in use. Not
            # before now: a GGUF file is read in so many small pieces that it would take minutes.
            probe.return_freed_memory()
            self._ends = ends.pop_all()

    @property
    def weight_bytes(self) -> int:
        """Of every weight in memory now, those that never leave included."""
        found = {
            tensor.data_ptr(): tensor.nbytes
            for tensor in self.model.network.parameters()
            if tensor.nbytes
        }
        return sum(found.values())

    def about(self) -> dict[str, Any]:
        """Device and versions, for reports."""
        return origins.surroundings(self.device)

    def step(self, tenant: Holder, meter: Meter, *, shielded: bool = True) -> DeviceStep:
        """What serves rows, beside a tenant."""
        card_bytes = card.card_bytes(self.story)
        return DeviceStep(self.server, tenant, meter, card_bytes, shielded=shielded)

    def close(self) -> None:
        """Put blocks back and let go of their copies."""
        self._ends.close()


def meter(machine: Machine) -> Meter:
    """Of the model's bytes on the device, once it is loaded and dense."""
    if machine.device.type == "cuda":
        return AllocatorProbe(machine.device)
    return HostMeter(machine.weight_bytes)


def tenant(device: str) -> Tenant:
    """A process that takes the tenant's bytes; where memory runs out, the model goes first."""
    index = torch.device(device).index or 0
    return Tenant("cpu" if device == "cpu" else f"cuda:{index}", spared=True)


class OpenStep(DeviceStep):
    """A step that owns its machine and its tenant."""

    def __init__(self, story: Scenario, split: Split, device: str) -> None:
        with ExitStack() as ends:
            machine = Machine(story, split, device)
            ends.callback(machine.close)
            other = ends.enter_context(tenant(device))
            super().__init__(machine.server, other, meter(machine), card.card_bytes(story))
            self._ends = ends.pop_all()

    def close(self) -> None:
        """End the tenant and put the model's blocks back."""
        self._ends.close()


def opened(story: Scenario, split: Split, device: str = "cpu") -> OpenStep:
    """What serves rows of a scenario on a device beside a tenant; no limit is enforced."""
    return OpenStep(story, split, device)
