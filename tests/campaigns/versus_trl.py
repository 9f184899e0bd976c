"""One GRPO step of ours against one of trl's GRPOTrainer: tokens per second, peak memory, share of each phase.

    python -m tests.campaigns.versus_trl                                   the committed comparison
    python -m tests.campaigns.versus_trl --engines vllm --dtype float32 --steps 2 --blocks 1

Contenders take turns, each block in a fresh process; both see the same prompts in the same order, sample from the
same initial weights with the same settings and use the same reward. Tokens of a step are those of its prompts (each
counted once per completion) and completions, padding left out; the step's time is the wall clock between the
ends of two consecutive steps; the first step of a process warms up and is not counted. The reward must tell the
completions of a prompt apart: where it does not, our side has nothing to train and the comparison means nothing.
Memory is the largest resident set of the process with all its children, sampled twenty times a second. Results:
results/baselines/versus-trl.json and versus-trl.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "baselines"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
PROMPTS, GROUP = 4, 8
LEARNING_RATE = 1e-6
GIB = 2**30


def last_number(batch, _context):
    """1 where the last number of a completion is the answer: this model hardly ever boxes one unasked."""
    found = [re.findall(r"-?\d+", item.text) for item in batch]
    return [float(bool(n) and n[-1] == item.answer) for n, item in zip(found, batch, strict=True)]


def recipe(engine, arguments):
    """The step as a recipe: one-digit sums in words, scored by the last number said."""
    from harness.spec.recipe import Recipe

    return Recipe.model_validate(
        {
            "model": {"name": arguments.model, "dtype": arguments.dtype},
            "prompt": {"max_tokens": 96},
            "data": {
                "size": 100,
                "sources": [
                    {
                        "source": "reasoning_gym",
                        "family": "chain_sum",
                        "params": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
                    }
                ],
            },
            "rollout": {
                "engine": engine,
                "prompts_per_step": PROMPTS,
                "completions_per_prompt": GROUP,
                "max_completion_tokens": arguments.cap,
                "vllm": {"cache_gib": 0.2},
            },
            "reward": {"functions": [{"name": arguments.reward}]},
            "optimizer": {"learning_rate": LEARNING_RATE},
            "training": {"microbatch_tokens": 256},
        }
    )


def questions(made, steps):
    """The problems of each step, as our trainer draws them."""
    from harness.data.mix import build_mix
    from harness.data.order import step_problems

    problems = build_mix(made.data).problems
    order = [
        step_problems(len(problems), seed=0, step=step, prompts_per_step=PROMPTS) for step in range(steps)
    ]
    return problems, [[problems[i] for i in chosen] for chosen in order]


def ours(engine, arguments, steps):
    """Our steps: tokens, seconds, seconds by phase."""
    from harness.models.catalog import resolve_model
    from harness.models.loading import load_model
    from harness.rewards.composite import CompositeReward
    from harness.rollout.build import build_engine
    from harness.training.trainer import Trainer

    made = recipe(engine, arguments)
    loaded = load_model(resolve_model(made.model), made.model)
    sampler = build_engine(made, loaded)
    rows = []
    with CompositeReward(made.reward) as rewards:
        problems, _ = questions(made, 0)
        trainer = Trainer(made, 0, loaded, sampler, rewards, problems, peak_flops=1e12)
        ended = time.perf_counter()
        for _ in range(steps):
            record = trainer.train_step()
            before, ended = ended, time.perf_counter()
            rows.append(
                {
                    "tokens": record.tokens.prompt + record.tokens.completion,
                    "seconds": ended - before,
                    "phases": dict(record.timing.seconds),
                    "zero_spread_share": record.reward.zero_spread_share,
                    "mean_completion_tokens": record.completion.mean_tokens,
                }
            )
    sampler.close()
    return rows


def theirs(arguments, steps):
    """trl's steps, measured by a callback; phases by wrapping its own methods."""
    # trl imports vLLM wherever it is installed: memory and time that its own step has no use for.
    sys.modules["vllm"] = None
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from harness.data.prompts import PromptEncoder
    from harness.models.catalog import resolve_model
    from harness.models.loading import load_model
    from harness.rewards.composite import CompositeReward
    from harness.rewards.types import RewardInput

    made = recipe("transformers", arguments)
    loaded = load_model(resolve_model(made.model), made.model)
    _, per_step = questions(made, steps)
    flat = [p for chosen in per_step for p in chosen]
    encoder = PromptEncoder(loaded.tokenizer, made.prompt)
    encoded = [encoder.encode(p.question) for p in flat]
    dataset = Dataset.from_dict(
        {
            "prompt": [loaded.tokenizer.decode(ids) for ids in encoded],
            "answer": [p.answer for p in flat],
            "question": [p.question for p in flat],
        }
    )
    rows, phases, spread, lengths = [], {}, [], []
    cap = arguments.cap
    composite = CompositeReward(made.reward)

    def score(completions, answer, question, completion_ids, **_):
        batch = [
            RewardInput(
                text=t,
                answer=a,
                tokens=len(c),
                cap=cap,
                truncated=len(c) == cap,
                question=q,
                group=i // GROUP,
            )
            for i, (t, a, q, c) in enumerate(zip(completions, answer, question, completion_ids, strict=True))
        ]
        total = composite.score(batch).total
        groups = [total[i : i + GROUP] for i in range(0, len(total), GROUP)]
        lengths.append(statistics.fmean(map(len, completion_ids)))
        spread.append(statistics.fmean(float(len(set(g)) == 1) for g in groups))
        return total

    class Meter(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            self.ended, self.tokens = time.perf_counter(), 0

        def on_step_end(self, args, state, control, **_):
            before, self.ended = self.ended, time.perf_counter()
            seen, self.tokens = self.tokens, state.num_input_tokens_seen
            told = {**phases, "other": self.ended - before - sum(phases.values())}
            phases.clear()
            rows.append(
                {
                    "tokens": self.tokens - seen,
                    "seconds": self.ended - before,
                    "phases": told,
                    "zero_spread_share": spread[-1],
                    "mean_completion_tokens": lengths[-1],
                }
            )

    class Timed(GRPOTrainer):
        def _generate(self, *args, **kwargs):
            start = time.perf_counter()
            try:
                return super()._generate(*args, **kwargs)
            finally:
                phases["rollout"] = phases.get("rollout", 0.0) + time.perf_counter() - start

        def training_step(self, *args, **kwargs):
            start, inside = time.perf_counter(), sum(phases.values())
            try:
                return super().training_step(*args, **kwargs)
            finally:
                nested = sum(phases.values()) - inside
                phases["update"] = phases.get("update", 0.0) + time.perf_counter() - start - nested

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=arguments.dtype == "bfloat16",
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=cap,
            temperature=1.0,
            learning_rate=LEARNING_RATE,
            beta=0.0,
            loss_type="dapo",
            max_steps=steps,
            shuffle_dataset=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            seed=0,
            disable_tqdm=True,
        )
        with composite:
            trainer = Timed(
                model=loaded.model,
                processing_class=loaded.tokenizer,
                reward_funcs=score,
                args=config,
                train_dataset=dataset,
                callbacks=[Meter()],
            )
            trainer.train()
    assert torch.isfinite(next(loaded.model.parameters())).all()
    return rows


def child(arguments):
    """One contender in this process; its rows as JSON."""
    steps = arguments.steps + 1
    contender = arguments.child
    rows = theirs(arguments, steps) if contender == "trl" else ours(contender, arguments, steps)
    arguments.out.write_text(json.dumps(rows[1:]))


def measured(contender, arguments):
    """Rows and peak resident GiB of one contender in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "rows.json", Path(folder) / "log"
        command = [sys.executable, "-m", "tests.campaigns.versus_trl", "--child", contender]
        command += ["--dtype", arguments.dtype, "--reward", arguments.reward]
        command += ["--model", arguments.model, "--cap", str(arguments.cap)]
        command += ["--steps", str(arguments.steps), "--out", str(out)]
        with log.open("w") as stream:
            process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT)
            peak = [0]
            watcher = threading.Thread(target=_watch, args=(process, peak))
            watcher.start()
            process.wait()
            watcher.join()
        if process.returncode != 0:
            sys.exit(f"{contender} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        return json.loads(out.read_text()), peak[0] / GIB


def _watch(process, peak):
    root = psutil.Process(process.pid)
    while process.poll() is None:
        resident = 0
        try:
            for member in [root, *root.children(recursive=True)]:
                try:
                    resident += member.memory_info().rss
                except psutil.Error:
                    continue
        except psutil.Error:
            return
        peak[0] = max(peak[0], resident)
        time.sleep(0.05)


def summary(rows, peaks):
    """Median tokens per second with the range over steps, peak memory, seconds by phase."""
    rates = [row["tokens"] / row["seconds"] for row in rows]
    names = sorted({name for row in rows for name in row["phases"]})
    return {
        "steps": len(rows),
        "tokens_per_second": sum(r["tokens"] for r in rows) / sum(r["seconds"] for r in rows),
        "tokens_per_second_range": [min(rates), max(rates)],
        "step_seconds_median": statistics.median(r["seconds"] for r in rows),
        "tokens_per_step": statistics.fmean(r["tokens"] for r in rows),
        "zero_spread_share": statistics.fmean(r["zero_spread_share"] for r in rows),
        "peak_gib": max(peaks),
        "phase_seconds": {n: statistics.fmean(r["phases"].get(n, 0.0) for r in rows) for n in names},
    }


def machine(arguments):
    """What the figures hold for."""
    import torch
    import transformers
    import trl

    model = next(
        (
            x.split(":")[1].strip()
            for x in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in x
        ),
        platform.processor(),
    )
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16_instructions": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "dtype": arguments.dtype,
        "reward": arguments.reward,
        "batch": f"{PROMPTS} prompts x {GROUP} completions of at most {arguments.cap} tokens",
        "model": arguments.model,
    }


def markdown(found):
    """The comparison for people."""
    about, base = found["machine"], found["contenders"]["trl"]
    emulates = about["dtype"] == "bfloat16" and not about["bf16_instructions"]
    emulation = (
        "; it has no bfloat16 instructions: our side computes in float32, trl emulates" if emulates else ""
    )
    lines = [
        "# One GRPO step against trl's GRPOTrainer",
        "",
        f"{about['model']}, {about['batch']}, reward `{about['reward']}`, {about['dtype']}; "
        f"trl {about['trl']} with its defaults. {about['processor']}, {about['cores']} cores, "
        f"{about['instructions']}{emulation}.",
        "",
        "| | tokens/s | range over steps | against trl | peak GiB | against trl | s a step | groups without spread |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, s in found["contenders"].items():
        low, high = s["tokens_per_second_range"]
        lines.append(
            f"| {name} | {s['tokens_per_second']:.0f} | {low:.0f} to {high:.0f} | "
            f"{s['tokens_per_second'] / base['tokens_per_second']:.1f}x | {s['peak_gib']:.2f} | "
            f"{s['peak_gib'] / base['peak_gib']:.2f}x | {s['step_seconds_median']:.1f} | "
            f"{s['zero_spread_share']:.0%} |"
        )
    lines += ["", "Seconds by phase, mean over steps (share of the step):", ""]
    for name, s in found["contenders"].items():
        total = sum(s["phase_seconds"].values())
        told = ", ".join(
            f"{phase} {value:.2f} ({value / total:.0%})"
            for phase, value in sorted(s["phase_seconds"].items(), key=lambda item: -item[1])
            if value > 0.005 * total
        )
        lines.append(f"* **{name}**: {told}")
    lines += [
        "",
        "Tokens: prompts and completions of the step's batch without padding, over the wall clock of the step. Peak: "
        "resident memory of the process and its children, start-up included. Fresh processes in turns; the first "
        "step of each is left out. Groups without spread teach nothing: our update skips them, exactly.",
    ]
    return "\n".join(lines) + "\n"


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--engines", nargs="+", choices=("vllm", "transformers"), default=["vllm", "transformers"]
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument(
        "--reward",
        default="tests.campaigns.versus_trl:last_number",
        help="a built-in reward, or module:function",
    )
    parser.add_argument("--model", default=MODEL, help="`tiny` tries the script out in a minute")
    parser.add_argument("--cap", type=int, default=64, help="completion tokens at most")
    parser.add_argument("--steps", type=int, default=3, help="counted steps a process")
    parser.add_argument("--blocks", type=int, default=1, help="turns of each contender")
    parser.add_argument("--out", type=Path, default=RESULTS / "versus-trl.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    names = ["trl", *arguments.engines]
    rows, peaks = {n: [] for n in names}, {n: [] for n in names}
    for block in range(arguments.blocks):
        for name in names:
            found, peak = measured(name, arguments)
            rows[name] += found
            peaks[name].append(peak)
            rate = sum(r["tokens"] for r in found) / sum(r["seconds"] for r in found)
            print(f"block {block + 1}: {name}: {rate:.0f} tokens/s, {peak:.2f} GiB", flush=True)
    found = {
        "machine": machine(arguments),
        "contenders": {n: summary(rows[n], peaks[n]) for n in names},
        "rows": rows,
        "peaks_gib": peaks,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    text = markdown(found)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
