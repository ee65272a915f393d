"""How many work at a time, and where: the options of every command that spreads its work."""

import argparse

from rapgym.cli import at_least
from rapgym.jobs import on_ray


def add_options(command: argparse.ArgumentParser) -> None:
    """Add `--jobs` and `--ray`; `chosen` reads them."""
    command.add_argument(
        "--jobs",
        type=at_least(1, 1024),
        metavar="N",
        help="processes side by side (one a processor)",
    )
    command.add_argument(
        "--ray",
        nargs="?",
        const=on_ray.LOCAL,
        type=_address,
        metavar="ADDRESS",
        help="spread the work over Ray, with the same results; a worker that dies is replaced. "
        "Without ADDRESS, on this machine alone; host:6379 from a machine of the cluster, "
        "ray://host:10001 from elsewhere, auto for the cluster that this machine belongs to. Every "
        "machine needs this very version of rapgym, or the work is refused, and files of your own at "
        "the same paths",
    )


def chosen(arguments: argparse.Namespace) -> tuple[int | None, str | None]:
    """What `parallel.results` takes: how many at a time (None: as many as there are), and Ray's address."""
    return arguments.jobs, arguments.ray


def _address(text: str) -> str:
    if text not in (on_ray.LOCAL, on_ray.RUNNING) and ":" not in text:
        raise argparse.ArgumentTypeError(
            f"{text} is no host:port; where no address is meant, put --ray at the end"
        )
    return text
