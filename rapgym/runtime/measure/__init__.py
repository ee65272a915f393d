"""Measuring what kept sets cost on a real model."""
