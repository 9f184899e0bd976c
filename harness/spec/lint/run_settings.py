"""A training run as the rules see it, whichever tool it is written for."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.spec.lint.finding import Finding, Place, Severity
from harness.spec.recipe import OptimizerSpec, RewardSpec


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the rules want to know of a run. Lengths are tokens.

    Attributes:
        file: the file it is written in.
        places: where a setting stands, by the concept's name; a concept that is not in it takes its default.
        names: what the tool calls a concept, for advice.
        steps: training steps.
        horizon: step at which the schedule comes to its end.
        optimizer: the rate and its schedule, in this harness's terms.
        schedule_known: whether `optimizer` is the run's own schedule; False where this harness has none like it.
        checkpoints: the steps whose checkpoints are looked at.
        updates: optimiser updates per batch of completions.
        loss: the loss variant.
        beta: weight of the KL term.
        group: completions per prompt.
        prompts: prompts per step.
        cap: length cap of a completion.
        prompt_cap: length cap of a prompt.
        model: its name.
        lora: whether adapters alone are trained.
        temperature: of sampling.
        logprob_temperature: of the trained log-probs.
        top_p: of sampling.
        reward: the reward, in this harness's terms; None where it is not known.
        reward_complete: whether `reward` is all of it; of a part, no verdict on the sum is given.
        reward_places: where each of its functions stands.
        stated: concepts that the author wrote down.
    """

    file: str
    places: dict[str, Place] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    steps: int
    horizon: int
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule_known: bool = True
    checkpoints: tuple[int, ...] = ()
    updates: int = 1
    loss: str = "grpo"
    beta: float = 0.0
    group: int = 8
    prompts: int = 1
    cap: int = 256
    prompt_cap: int = 512
    model: str = ""
    lora: bool = False
    temperature: float = 1.0
    logprob_temperature: float = 1.0
    top_p: float = 1.0
    reward: RewardSpec | None = None
    reward_complete: bool = True
    reward_places: tuple[Place, ...] = ()
    stated: frozenset[str] = frozenset()

    def place(self, concept: str) -> Place:
        """Where a concept stands."""
        return self.places.get(concept) or Place(key=self.name(concept))

    def name(self, concept: str) -> str:
        """What the tool calls a concept."""
        return self.names.get(concept, concept)

    def finding(
        self, rule: str, severity: Severity, concept: str | Place, effect: str, instead: str
    ) -> Finding:
        """A finding at a concept's place."""
        place = concept if isinstance(concept, Place) else self.place(concept)
        return Finding(
            rule=rule, severity=severity, file=self.file, place=place, effect=effect, instead=instead
        )
