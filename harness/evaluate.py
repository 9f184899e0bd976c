"""Evaluates one model, without a grid. Given again, it continues; what is on file is not sampled twice."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.spec.engines import ENGINES, FIRST_ENGINE

DEFAULT_OUT = Path("results/runs/evaluations")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.evaluate",
        description=__doc__,
        epilog="benchmarks: aime24, aime25, math500, amc23, minerva, olympiadbench (from the hub), champ, sums, "
        "sums:TERMSxDIGITS, gym:FAMILY of reasoning-gym, FILE.jsonl, FILE.parquet, FILE.csv, NAME=FILE; @N after any "
        "of them takes its first N questions. Exit codes: 0 done, 2 the input is wrong, 4 the harness itself failed",
    )
    what = parser.add_argument_group("what")
    what.add_argument("--model", metavar="M", help="`tiny`, a folder or a hub id")
    what.add_argument("--benchmarks", nargs="+", default=[], metavar="B", help="see below")
    what.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML with the fields of a grid's `evaluate`"
    )
    what.add_argument("--questions", type=int, metavar="N", help="questions of each benchmark (default: all)")
    what.add_argument(
        "--rescore", type=Path, metavar="DIR", help="score the completions in DIR again, no model"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--samples", type=int, metavar="K", help="completions per question (default: 8)")
    how.add_argument(
        "--max-tokens", type=int, metavar="N", help="length cap (default: what the context leaves)"
    )
    how.add_argument(
        "--caps", type=int, nargs="+", default=[], metavar="N", help="smaller caps, by truncation"
    )
    how.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (default: 0.6)")
    how.add_argument("--top-p", type=float, metavar="P", help="nucleus threshold (default: 0.95)")
    how.add_argument("--seed", type=int, metavar="S", help="seed of the samples (default: 0)")
    how.add_argument("--system", metavar="TEXT", help="system message (default: none)")
    how.add_argument("--template", metavar="TEXT", help="user message, {question} stands for the question")
    how.add_argument(
        "--format",
        choices=("chat", "raw"),
        help="raw: --template itself is the prompt, as base models want it (default: chat)",
    )
    how.add_argument(
        "--chat-template", metavar="FILE", help="chat template in place of the model's own, a file or text"
    )
    how.add_argument("--engine", choices=tuple(ENGINES), default=FIRST_ENGINE)
    how.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    how.add_argument("--part-rows", type=int, default=256, metavar="N", help="completions kept at a time")
    where = parser.add_argument_group("where")
    where.add_argument("--out", type=Path, metavar="DIR", help=f"output folder (default: {DEFAULT_OUT})")
    where.add_argument(
        "--export", type=Path, metavar="DIR", help="also write lm-eval and lighteval result files"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from harness.cli.exits import guarded

    return guarded(lambda: _evaluate(arguments), arguments.out / "error.log" if arguments.out else None)


def _evaluate(arguments: argparse.Namespace) -> int:
    from harness.cli.exits import DONE
    from harness.evaluation.command import run

    run(arguments, default_out=DEFAULT_OUT)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
