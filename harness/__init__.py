"""Benchmarking and ablation harness for GRPO training of small reasoning models."""

__version__ = "0.1.0"
