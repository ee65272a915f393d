"""Submissions to the leaderboard: a policy with its rows, packed, read without trust, run again."""
