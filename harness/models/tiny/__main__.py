"""Makes the weights of `tiny`: `python -m harness.models.tiny [--out DIR]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from harness.models.tiny import FOLDER


def main(arguments: list[str] | None = None) -> int:
    """Trains, saves in bfloat16, and prints accuracy by difficulty of what was saved."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.models.tiny",
        description="Trains the embedded default model from nothing, on noisy traces of sums.",
    )
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder to write to (default: the package's)"
    )
    parser.add_argument("--steps", type=int, help="optimiser updates (default: the shipped model's)")
    options = parser.parse_args(arguments)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.models.tiny.measure import DIFFICULTIES, measure
    from harness.models.tiny.warm_start import WarmStart, warm_start

    settings = WarmStart() if options.steps is None else WarmStart(steps=options.steps)
    start = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 100 == 0 or step == settings.steps - 1:
            seconds = time.monotonic() - start
            print(f"step {step:5d}  loss {loss:.3f} nats/token  {seconds:6.1f} s", flush=True)

    model, tokenizer = warm_start(settings, report)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)

    saved = AutoModelForCausalLM.from_pretrained(options.out, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    print("terms x digits   accuracy   format   tokens   (sampled at temperature 1, held-out questions)")
    for terms, digits in DIFFICULTIES:
        figures = measure(saved, tokenizer, terms=terms, digits=digits, completions=512)
        print(
            f"{terms} x {digits}            {figures.accuracy:8.3f} {figures.formatted:8.3f} {figures.tokens:8.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
