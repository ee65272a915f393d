"""Strings that came from elsewhere, as a terminal may show them."""


def shown(text: object) -> str:
    """One line of text in which every character that does not print stands as its escape.

    A file or a policy may hold control characters, which would move the cursor, recolour or erase what
    stands on a terminal, or forge a line of its own.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in str(text))


def shown_lines(text: object) -> str:
    """The same for a text of several lines: ends of lines stay."""
    return "\n".join(shown(line) for line in str(text).split("\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
