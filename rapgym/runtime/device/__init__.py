"""Rows on a real device beside a real tenant."""
