"""Reward functions and answer checking. Torch-free."""
