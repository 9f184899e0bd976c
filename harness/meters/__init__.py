"""Measurements of a run: time, memory, FLOPs, cost and provenance."""
