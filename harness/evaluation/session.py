"""One model on its own: evaluates what is missing, re-scores what is there, and writes the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from harness.data.mix import build_benchmark
from harness.data.problem import Problem
from harness.data.references import whole_solutions
from harness.data.sources import check_rows, check_source, source_fingerprint
from harness.data.templates import PromptRefused, prompt_facts
from harness.models.catalog import ModelSource, resolve_model
from harness.models.converted import check_convertible
from harness.spec.data import DataSpec, SumsSource
from harness.spec.errors import SpecError
from harness.spec.evaluation import BenchmarkSpec, EvaluateSpec
from harness.spec.identity import base_identity, evaluation_identity
from harness.spec.prompt import PromptSpec
from harness.spec.recipe import ModelSpec, Recipe, RewardFunctionSpec, RewardSpec, RolloutSpec
from harness.store.atomic import make_folder, to_json
from harness.store.folders import RunFolder, Store
from harness.store.records import MadeBy
from harness.store.records.form import to_data
from harness.store.repair import damages, repair_run

Log = Callable[[str], None]

OPTIONS = {
    "`prompt.format: raw`": "`--format raw`",
    "`prompt.template`": "`--template`",
    "`prompt.chat_template`": "`--chat-template`",
}
"""What fields of a prompt are called on the command line."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """What `harness.evaluate` was asked to do.

    Attributes:
        model: the model.
        evaluate: benchmarks and sampling settings; its cap is the largest.
        prompt: from question to prompt.
        caps: smaller caps, served by truncation.
        engine: a name in `harness.spec.engines`.
        out: output folder.
        part_rows: completions sampled and kept together.
    """

    model: ModelSpec
    evaluate: EvaluateSpec
    prompt: PromptSpec
    caps: tuple[int, ...]
    engine: str
    out: Path
    part_rows: int

    def recipe(self) -> Recipe:
        """The settings as a recipe, as far as an untrained model has one: what its identity is made of."""
        return Recipe(
            model=self.model,
            data=DataSpec(sources=(SumsSource(source="sums"),)),
            reward=RewardSpec(functions=(RewardFunctionSpec(name="accuracy"),)),
            prompt=self.prompt,
            rollout=RolloutSpec.model_validate(
                {"engine": self.engine, "max_completion_tokens": self.evaluate.max_completion_tokens}
            ),
        )

    def specs(self) -> list[EvaluateSpec]:
        """The settings under every cap, the largest first."""
        caps = sorted({self.evaluate.max_completion_tokens, *self.caps}, reverse=True)
        return [self.evaluate.model_copy(update={"max_completion_tokens": cap}) for cap in caps]


def run_folder(session: Session, source: ModelSource) -> RunFolder:
    """Where a model's evaluations are: the folder that the base run of a matrix has too."""
    digest = base_identity(session.recipe(), model_fingerprint=source.fingerprint).digest
    return Store(session.out).run(digest)


def check(session: Session) -> ModelSource:
    """Finds the model and the benchmarks, before anything is written.

    Raises:
        SpecError: one of them isn't there or cannot be used, the cap is beyond the model's context, or its chat
            template does not render the prompt as it was meant.
    """
    source = resolve_model(session.model)
    if max(session.caps, default=0) > session.evaluate.max_completion_tokens:
        raise SpecError(
            f"--caps: {max(session.caps)} is beyond --max-tokens, {session.evaluate.max_completion_tokens}",
            hint="a cap is served by truncating the evaluation at --max-tokens",
        )
    if session.evaluate.max_completion_tokens >= source.context_tokens:
        raise SpecError(
            f"--max-tokens: {session.evaluate.max_completion_tokens} leaves no room for a prompt in the "
            f"{source.context_tokens} tokens of {session.model.name}",
            hint="lower it",
        )
    for benchmark in session.evaluate.benchmarks:
        check_source(benchmark.source)
        _check_rows(benchmark)
    try:
        prompt_facts(session.prompt, source)
    except PromptRefused as error:
        option = {"system": "--system: ", "chat_template": "--chat-template: "}.get(error.field, "")
        hint = error.hint or ""
        for field, written in OPTIONS.items():
            hint = hint.replace(field, written)
        raise SpecError(f"{option}{error.message}", hint=hint or None) from None
    check_convertible(source)
    return source


def _check_rows(benchmark: BenchmarkSpec) -> None:
    stored = check_rows(benchmark.source)
    if stored is None:
        return
    pattern = getattr(benchmark.source, "answer_pattern", None)
    found = whole_solutions(stored.problems, column=stored.columns.answer, unit=stored.unit, pattern=pattern)
    if found is not None and found.grave:
        raise SpecError(f"benchmark {benchmark.name!r}: {found.effect}", hint=found.instead)


def missing(session: Session, folder: RunFolder) -> list[tuple[EvaluateSpec, BenchmarkSpec, str]]:
    """What is not on file: settings, benchmark and evaluation identity; by benchmark, the largest cap first."""
    wanted = []
    for benchmark in session.evaluate.benchmarks:
        content = source_fingerprint(benchmark.source)
        for spec in session.specs():
            identity = evaluation_identity(spec, benchmark, session.prompt, benchmark_fingerprint=content)
            if folder.evaluation(0, benchmark.name, identity.digest) is None:
                wanted.append((spec, benchmark, identity.digest))
    return wanted


def evaluate(session: Session, source: ModelSource, log: Log) -> None:
    """Makes the evaluations that are missing; continues one that was interrupted.

    Raises:
        SpecError: another process evaluates this model in the same folder.
    """
    folder = run_folder(session, source)
    if found := damages(folder):
        repair_run(folder, found, log)
    todo = missing(session, folder)
    if not todo:
        log("nothing to sample: every evaluation is on file")
        return
    problems = {b.name: build_benchmark(b) for _, b, _ in todo}
    make_folder(folder.path)
    lock = FileLock(folder.path / ".evaluate.lock")
    try:
        lock.acquire(timeout=5)
    except Timeout:
        raise SpecError(
            f"{folder.path}: another process evaluates this model here", hint="wait for it"
        ) from None
    try:
        _evaluate(session, source, folder, todo, problems, log)
    finally:
        lock.release()


def _evaluate(
    session: Session,
    source: ModelSource,
    folder: RunFolder,
    todo: Sequence[tuple[EvaluateSpec, BenchmarkSpec, str]],
    problems: dict[str, list[Problem]],
    log: Log,
) -> None:
    from harness.evaluation.evaluate import Evaluator
    from harness.evaluation.folder import evaluate_into
    from harness.meters.provenance import collect
    from harness.models.device import choose_device
    from harness.models.loading import load_model
    from harness.rewards.answers import AnswerChecker
    from harness.rollout.build import build_engine

    loaded = load_model(source, session.model, device=choose_device("auto"))
    made_by = MadeBy(run_id=folder.run_id, model=session.model.name, provenance=collect())
    engine = build_engine(session.recipe(), loaded, on_event=lambda kind, message: log(f"{kind}: {message}"))
    with AnswerChecker() as checker, closing(engine):
        for spec, benchmark, identity in todo:
            evaluator = Evaluator(
                spec,
                session.prompt,
                loaded,
                engine,
                checker,
                model_fingerprint=source.fingerprint,
                engine_name=session.engine,
                part_rows=session.part_rows,
            )
            name = f"{benchmark.name} at {spec.max_completion_tokens} tokens"
            record = evaluate_into(
                folder,
                0,
                evaluator,
                benchmark,
                identity,
                spec=spec,
                prompt=session.prompt,
                made_by=made_by,
                problems=problems[benchmark.name],
                progress=_progress(log, name),
            )
            how = "by truncation" if record.truncated_from else "sampled"
            log(f"{name}: avg@{record.samples} {100 * record.accuracy:.1f} % ({how})")
            if record.repeats is not None and record.repeats.flagged:
                log(f"warning: {name}: samples repeat beyond chance; are the seeds used?")


def _progress(log: Log, name: str) -> Callable[[int, int], None]:
    return lambda done, total: log(f"{name}: {done} of {total} questions")


def rescore(folder: Path, log: Log) -> int:
    """Scores every completion under `folder` again, from its text alone; returns how many verdicts changed.

    Records and samples are rewritten where a verdict changed; otherwise they stay as they are.
    """
    from harness.evaluation.scoring import figures, scored
    from harness.evaluation.tables import evaluations_in
    from harness.rewards.answers import AnswerChecker

    changed = 0
    with AnswerChecker() as checker:
        for run, record in evaluations_in(folder):
            settings = record.known_settings
            before = run.samples(record.step, record.benchmark, record.evaluation_id, None)
            after = scored(before, checker)
            made = figures(after, top_p=settings.top_p)
            if record.truncated_from:
                made = replace(made, repeats=record.repeats)
            differ = int((before["correct"] != after["correct"]).sum())
            log(f"{record.benchmark} at {settings.max_completion_tokens} tokens: "
                f"{len(after):,} completions scored again, {differ} differ")  # fmt: skip
            changed += differ
            new = replace(record, **vars(made))
            # Compared as text, in which a NaN equals a NaN.
            if to_json(to_data(new)) != to_json(to_data(record)):
                run.save_evaluation(new, after)
    return changed
