"""Evaluation of checkpoints: benchmarks × K samples a question."""
