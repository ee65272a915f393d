"""Policies on rows: what they did, and what it cost."""
