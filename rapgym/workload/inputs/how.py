"""What only the user can say of a file: units, time zone, which GPU; and what came of reading it."""

from dataclasses import dataclass, field

from rapgym.errors import InvalidSpec

TIME_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # how many a second
OPTIONS = ("unit", "timezone", "gpu", "pair")
MEMORY_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True, slots=True)
class How:
    """How a file is to be read where it does not say so itself.

    Raises:
        InvalidSpec: a unit or a time zone is none.
    """

    units: tuple[str, ...] = ()  # of time, of memory, or one of both
    timezone: str = ""  # of times without a zone; "": this machine's
    gpu: str = ""  # index, UUID, or index:instance of a part of one
    pair: str = ""  # "start": requests and memory begin together, whatever their clocks say

    @classmethod
    def of(cls, text: str) -> "How":
        """What a scenario's `reading` says: `unit=ms+MiB;timezone=Europe/Berlin;gpu=0;pair=start`.

        Raises:
            InvalidSpec: it cannot be read.
        """
        told = dict(part.strip().partition("=")[::2] for part in text.split(";") if part.strip())
        if unknown := sorted({*told} - {*OPTIONS}):
            raise InvalidSpec(
                f"how traces are read knows no {unknown[0]!r}; there are {', '.join(OPTIONS)}"
            )
        units = tuple(filter(None, told.pop("unit", "").split("+")))
        return cls(units, **told)

    @property
    def told(self) -> dict[str, str]:
        """What is stated, by the names of `of`."""
        every = {
            "unit": "+".join(self.units),
            "timezone": self.timezone,
            "gpu": self.gpu,
            "pair": self.pair,
        }
        return {name: value for name, value in every.items() if value}

    def __post_init__(self) -> None:
        if self.pair not in ("", "start"):
            raise InvalidSpec(f"pair is start, or left out, not {self.pair!r}")
        for unit in self.units:
            if unit not in TIME_UNITS and unit not in MEMORY_UNITS:
                known = ", ".join((*TIME_UNITS, *MEMORY_UNITS))
                raise InvalidSpec(f"--unit {unit!r} is none; there are {known}")
        for known_units in (TIME_UNITS, MEMORY_UNITS):
            if len({*self.units} & {*known_units}) > 1:
                raise InvalidSpec(
                    "--unit is given twice for the same: state one of time, one of memory"
                )
        if self.timezone:
            import zoneinfo

            try:
                zoneinfo.ZoneInfo(self.timezone)
            except (OSError, ValueError, KeyError) as error:
                raise InvalidSpec(
                    f"--timezone {self.timezone!r} is not known here: it is a name like Europe/Berlin "
                    "(pip install tzdata where the system has none)"
                ) from error

    @property
    def time_unit(self) -> str:
        """As stated; empty where it was not."""
        return next((unit for unit in self.units if unit in TIME_UNITS), "")

    @property
    def memory_unit(self) -> str:
        """As stated; empty where it was not."""
        return next((unit for unit in self.units if unit in MEMORY_UNITS), "")


@dataclass(slots=True)
class Report:
    """What is known of a file beside its rows."""

    formats: dict[str, int] = field(default_factory=dict)  # name -> rows that are of it
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> rows
    first_fault: str = ""  # why the first of those that cannot be read cannot
    estimated: int = 0  # requests whose lengths contradict each other
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, rows: int = 1) -> None:
        """Count rows that are left out."""
        if rows:
            self.left_out[reason] = self.left_out.get(reason, 0) + rows

    def fault(self, words: str) -> None:
        """Count a row that cannot be read."""
        self.leave_out(UNREADABLE)
        self.first_fault = self.first_fault or words

    @property
    def format(self) -> str:
        """The format's name; of several, each."""
        return " and ".join(self.formats)

    def sentences(self) -> list[str]:
        """What the user is told, a line each."""
        parts = [f"{rows} {reason}" for reason, rows in self.left_out.items()]
        if self.first_fault and UNREADABLE in self.left_out:
            parts = [
                f"{part}, the first at {self.first_fault}" if UNREADABLE in part else part
                for part in parts
            ]
        lines = [f"read as {self.format}", *self.notes]
        if parts:
            lines.append(f"left out: {'; '.join(parts)}")
        if self.estimated:
            lines.append(
                f"{self.estimated} requests are counted by estimate: their totals contradict their parts"
            )
        return lines


UNREADABLE = "lines that cannot be read"
FAILED = "failed or aborted requests"
UNANSWERED = "requests without an answer or lengths"
OTHER_CLOCK = "rows whose time is unknown (0) or on another clock than the rest"
EMPTY = "requests of no token"
MISSING = "samples without a value"
LATER = "later requests of sessions, which have no time of arrival"
SUMS = "spans that sum up others"
REPEATED = "samples of an instant that has one already"
