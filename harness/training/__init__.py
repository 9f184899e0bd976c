"""The GRPO training loop and what it leaves behind."""
