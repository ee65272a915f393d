"""Logs of decisions: written, chained, read, replayed, explained."""
