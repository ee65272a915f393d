"""Policies against each other: runs, results, scores, verification."""
