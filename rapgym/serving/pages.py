"""Pages of KV cache: a number that may change, whose free ones remember what they hold."""

from collections import OrderedDict
from collections.abc import Sequence

Key = tuple[int, int]  # a request, and which of its pages


class Pages:
    """Pages that sequences hold, and free ones in the order in which they will be taken.

    A freed page goes to the end of the free ones, the last page of a sequence before its first, and
    keeps what it holds until it is taken: a sequence that begins alike may then hold it too.
    """

    def __init__(self, *, remembers: bool) -> None:
        self._remembers = remembers
        self._free: OrderedDict[int, None] = OrderedDict()
        self._holders: dict[int, int] = {}  # of each page that is not free
        self._key_of: dict[int, Key] = {}
        self._page_of: dict[Key, int] = {}
        self._made = 0

    @property
    def used(self) -> int:
        """Pages that some sequence holds."""
        return len(self._holders)

    @property
    def free(self) -> int:
        """Pages that none holds."""
        return len(self._free)

    def resize(self, count: int) -> None:
        """Let there be `count` pages, or as many as are used: blank ones come, the next free ones go."""
        while self.used + self.free < count:
            self._free[self._made] = None
            self._free.move_to_end(self._made, last=False)
            self._made += 1
        while self.free and self.used + self.free > count:
            self._forget(self._free.popitem(last=False)[0])

    def take(self, count: int) -> list[int]:
        """So many free pages, which forget what they held."""
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for page in taken:
            self._forget(page)
            self._holders[page] = 1
        return taken

    def remembered(self, keys: Sequence[Key]) -> list[int]:
        """The pages that hold the first of these keys, up to the first that none holds."""
        found: list[int] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def idle(self, pages: Sequence[int]) -> int:
        """How many of these pages are free."""
        return sum(page not in self._holders for page in pages)

    def hold(self, pages: Sequence[int]) -> None:
        """Let one more sequence hold these pages."""
        for page in pages:
            self._free.pop(page, None)
            self._holders[page] = self._holders.get(page, 0) + 1

    def fill(self, page: int, key: Key) -> None:
        """Say what a page holds now that it is full."""
        if self._remembers and page not in self._key_of:
            self._key_of[page] = key
            self._page_of.setdefault(key, page)

    def release(self, pages: Sequence[int]) -> None:
        """Let one sequence hold these pages no longer, its last page first."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if not self._holders[page]:
                del self._holders[page]
                self._free[page] = None

    def _forget(self, page: int) -> None:
        key = self._key_of.pop(page, None)
        if key is not None and self._page_of.get(key) == page:
            del self._page_of[key]
