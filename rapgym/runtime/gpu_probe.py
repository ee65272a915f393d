"""Measured bytes of GPUs: NVIDIA's driver tells through NVML, torch of its own allocator.

Not tried on a GPU.
"""

from typing import Any

from rapgym.errors import DataUnavailable, MissingExtra
from rapgym.runtime.probe import SAMPLE_S, Sampler


class DeviceProbe:
    """Memory of a GPU by NVML: of all programs on it, or of one process.

    NVML keeps no peak: a thread looks every few milliseconds. Close it.
    """

    def __init__(self, device: int | str, pid: int | None = None, *, nvml: Any = None) -> None:
        """Args:
            device: NVML's index, which CUDA_VISIBLE_DEVICES does not change, or a UUID (`uuid`).
            pid: of one process; None counts all, the driver's own share included.
            nvml: what stands for the module pynvml.

        Raises:
            MissingExtra: nvidia-ml-py is not installed.
            DataUnavailable: there is no driver or no such device.
        """
        self._nvml = _pynvml() if nvml is None else nvml
        self.pid = pid
        try:
            self._nvml.nvmlInit()
            by = "Index" if isinstance(device, int) else "UUID"
            self._handle = getattr(self._nvml, f"nvmlDeviceGetHandleBy{by}")(device)
        except self._nvml.NVMLError as error:
            raise DataUnavailable(
                f"NVML does not give GPU {device} ({error}): see whether nvidia-smi lists it"
            ) from error
        self._sampler = Sampler(self.used_bytes, SAMPLE_S)

    @property
    def peak_by(self) -> str:
        return f"NVML, read every {SAMPLE_S * 1e3:g} ms"

    def used_bytes(self) -> int:
        """In use now.

        Raises:
            DataUnavailable: NVML does not tell, or does not know the process.
        """
        try:
            if self.pid is None:
                return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError as error:
            raise DataUnavailable(f"NVML does not tell the GPU's memory: {error}") from error
        found = [each.usedGpuMemory for each in running if each.pid == self.pid]
        if not found or found[0] is None:
            raise DataUnavailable(
                f"NVML tells no memory of process {self.pid}: it has not used this GPU, or this is a "
                "container, whose process numbers NVML does not know; measure the whole GPU instead"
            )
        return int(found[0])

    def reset_peak(self) -> None:
        self._sampler.restart()

    def peak_bytes(self) -> int:
        return self._sampler.top()

    def close(self) -> None:
        """End the thread and NVML."""
        self._sampler.close()
        self._nvml.nvmlShutdown()


def _pynvml() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise MissingExtra(
            'memory of a GPU is read with nvidia-ml-py: pip install "rapgym[device]"'
        ) from error
    return pynvml


class AllocatorProbe:
    """What torch's CUDA allocator holds on a device, by its own figures. Not tried on a GPU."""

    peak_by = "torch's CUDA allocator"

    def __init__(self, device: Any, *, cuda: Any = None) -> None:
        """`cuda` is what stands for the module torch.cuda."""
        if cuda is None:
            import torch

            cuda = torch.cuda
        self._cuda, self.device = cuda, device

    def used_bytes(self) -> int:
        return int(self._cuda.memory_reserved(self.device))

    def reset_peak(self) -> None:
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        return int(self._cuda.max_memory_reserved(self.device))

    def uuid(self) -> str:
        """Of the device, as NVML writes it."""
        return f"GPU-{self._cuda.get_device_properties(self.device).uuid}"
