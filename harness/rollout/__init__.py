"""Sampling of completions: the engine interface and its implementations."""
