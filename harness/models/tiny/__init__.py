"""`tiny`, the embedded default model: 0.8M parameters that add up, imperfectly, so that GRPO has work to do.

The folder is a plain Hugging Face model folder beside the code that makes it:
`python -m harness.models.tiny` trains the weights again, from nothing.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where config, tokenizer and weights lie."""
