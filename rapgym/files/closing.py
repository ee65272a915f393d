"""What is closed in the end: usable with `with`."""

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Something that holds a file, a process or memory until `close`; `with` closes it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
