"""What training needs beside environments: the only package next to runtime/ that knows torch."""

from rapgym.learning.saved import as_policy

__all__ = ["as_policy"]
