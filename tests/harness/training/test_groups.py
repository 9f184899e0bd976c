"""Groups without spread: kept, dropped or drawn again, counted by hand; the data position resumes."""

import pytest
import torch

from harness.data.order import problems_from, step_problems
from harness.data.problem import Problem
from harness.rollout.engine import Completion
from harness.spec.recipe import Recipe
from harness.store.records import DrawingFigures
from harness.training.checkpoints import Checkpoints
from harness.training.groups import reward_inputs
from harness.training.trainer import Trainer

GROUP = 2


class Tokens:
    """As much of a tokenizer as a trainer needs: a token is a digit."""

    pad_token_id = 0
    chat_template = "{{ messages[-1].content }}"

    def apply_chat_template(self, messages, **_):
        return [1 + int(c) for c in messages[-1]["content"] if c.isdigit()]

    def decode(self, row):
        return "".join(map(str, row))

    def batch_decode(self, rows, **_):
        return ["".join(map(str, row)) for row in rows]

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}")


class Scripted:
    """An engine whose completions tell reward and question: question q has spread when `useful(q)`."""

    def __init__(self, useful):
        self.useful, self.calls = useful, []

    def generate(self, requests, sampling):
        self.calls.append([r.prompt_ids for r in requests])
        seen, found = {}, []
        for request in requests:
            number = seen[request.prompt_ids] = seen.get(request.prompt_ids, -1) + 1
            reward = number if self.useful(request.prompt_ids) else 1
            found.append(Completion((1 + reward, 5, 6), (-0.1, -0.2, -0.3), False))
        return found

    def update_weights(self):
        pass

    def sleep(self):
        pass

    def close(self):
        pass


class Rewards:
    """The first token less one."""

    def score(self, batch):
        from harness.rewards.composite import Scores

        values = [float(item.text[0]) - 1 for item in batch]
        return Scores(values, {"first": values}, [False] * len(batch), [None] * len(batch))


@pytest.fixture
def make(random_model):
    import copy

    from harness.data.problem import Problem
    from harness.models.loading import LoadedModel
    from harness.models.special_ids import SpecialIds

    def begin(mode, useful, **rollout):
        recipe = Recipe.model_validate(
            {
                "model": "tiny",
                "data": {"sources": [{"source": "sums"}]},
                "reward": {"functions": [{"name": "accuracy"}]},
                "rollout": {
                    "prompts_per_step": 4,
                    "completions_per_prompt": GROUP,
                    "max_completion_tokens": 9,
                    "zero_spread": mode,
                    **rollout,
                },
                "optimizer": {"learning_rate": 1e-3},
            }
        )
        problems = [
            Problem(question=f"{n:02d}", answer="0", id=str(n), difficulty="", source="test")
            for n in range(10)
        ]
        loaded = LoadedModel(copy.deepcopy(random_model), Tokens(), None, SpecialIds((30,), 0, 31))
        engine = Scripted(useful)
        engine.policy = loaded.model
        return Trainer(recipe, 7, loaded, engine, Rewards(), problems, peak_flops=1e11), engine

    return begin


def order(count, first=0):
    """The prompts that the seed gives, from a position on."""
    return [(1 + n // 10, 1 + n % 10) for n in problems_from(10, seed=7, first=first, number=count)]


def drawn(engine):
    return [[prompts[i] for i in range(0, len(prompts), GROUP)] for prompts in engine.calls]


def test_the_order_by_position_is_the_order_by_step():
    for step in range(6):
        expected = problems_from(10, seed=3, first=4 * step, number=4)
        assert step_problems(10, seed=3, step=step, prompts_per_step=4) == expected


def test_keep_counts_groups_without_spread_in_the_mean_and_drop_does_not(make):
    useful = order(4)[:1]
    kept, _ = make("keep", useful.__contains__)
    dropped, _ = make("drop", useful.__contains__)
    one, other = kept.train_step(), dropped.train_step()
    assert one.drawing is None
    assert other.drawing == DrawingFigures(
        rounds=1, groups_drawn=4, groups_kept=1, left_out_tokens=3 * GROUP * 3
    )
    assert one.tokens.skipped_samples == other.tokens.skipped_samples == 6
    assert one.tokens.trained == other.tokens.trained == 2 * (2 + 3)
    # The mean over all tokens of the batch: a quarter of the tokens, four times the gradient.
    assert other.objective["grad_norm"] == pytest.approx(4 * one.objective["grad_norm"], rel=1e-4)
    assert other.reward.mean == one.reward.mean == pytest.approx((3 * 1 + 0.5) / 4)


def test_resampling_draws_until_the_batch_is_full_by_hand(make):
    sequence = order(10)
    # Positions 1 and 3 of the first four have spread; of the next two, position 5; then position 6 fills the batch.
    useful = {sequence[i] for i in (1, 3, 5, 6)}
    trainer, engine = make("resample", useful.__contains__)
    record = trainer.train_step()
    assert drawn(engine) == [sequence[0:4], sequence[4:6], sequence[6:7]]
    assert record.drawing == DrawingFigures(
        rounds=3, groups_drawn=7, groups_kept=4, left_out_tokens=3 * GROUP * 3
    )
    assert record.tokens.completion == 7 * GROUP * 3
    assert record.tokens.trained == 4 * GROUP * (2 + 3)
    assert record.samples_seen == 7 * GROUP
    assert record.epoch == 0.7
    assert 0 < record.timing.resample_seconds < record.timing.total_seconds
    # The next step goes on where this one ended, into the second epoch.
    trainer.train_step()
    assert drawn(engine)[3] == order(4, first=7)


def test_the_bound_ends_the_drawing_and_what_there_is_is_trained_on(make):
    sequence = order(10)
    trainer, engine = make("resample", {sequence[2]}.__contains__, max_resamples=2)
    record = trainer.train_step()
    assert [len(prompts) for prompts in drawn(engine)] == [4, 3, 3]
    assert record.drawing.rounds == 3
    assert record.drawing.groups_kept == 1
    assert record.objective["grad_norm"] > 0


@pytest.mark.parametrize("mode", ["drop", "resample"])
def test_a_step_without_any_spread_leaves_the_weights_alone(make, mode):
    trainer, engine = make(mode, lambda prompt: False, max_resamples=1)
    before = {n: p.clone() for n, p in engine.policy.named_parameters()}
    record = trainer.train_step()
    assert record.drawing.groups_kept == 0
    assert record.tokens.trained == 0
    assert record.tokens.skipped_samples == record.drawing.groups_drawn * GROUP
    assert all(torch.equal(before[n], p) for n, p in engine.policy.named_parameters())


def test_the_data_position_is_part_of_the_checkpoint(make, tmp_path):
    sequence = order(10)
    useful = {sequence[i] for i in (0, 2, 4, 5, 7, 8)}
    whole, engine = make("resample", useful.__contains__)
    checkpoints = Checkpoints(tmp_path)
    whole.train_step()
    whole.save(checkpoints)
    expected = whole.train_step()
    resumed, again = make("resample", useful.__contains__)
    resumed.restore(checkpoints, 1)
    found = resumed.train_step()
    assert drawn(again) == drawn(engine)[-len(again.calls) :]
    for part in ("objective", "drawing", "reward", "tokens", "epoch", "samples_seen"):
        assert getattr(found, part) == getattr(expected, part)


def test_each_completion_comes_with_what_its_prompt_opened():
    problems = [Problem(question=q, answer=q, id=q, difficulty="", source="test") for q in "ab"]
    completions = [Completion((1, 2), (-0.1, -0.2), False)] * 4
    inputs = reward_inputs(problems, completions, list("wxyz"), cap=9, opened=["<think>\n", ""])
    assert [(i.text, i.question, i.group, i.opened) for i in inputs] == [
        ("w", "a", 0, "<think>\n"),
        ("x", "a", 0, "<think>\n"),
        ("y", "b", 1, ""),
        ("z", "b", 1, ""),
    ]
