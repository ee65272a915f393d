"""Studies of the world itself, and the pages made of results: not part of an installed package."""
