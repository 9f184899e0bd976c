"""Recipes of trl as grids: Open-RS's against the grid that was written by hand, and each setting by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.lint import main as lint_main
from harness.matrix.planning.data_rules import lint_file
from harness.plan import main as plan_main
from harness.spec.grid import load_grid
from harness.spec.lint.finding import clean

ROOT = Path(__file__).resolve().parents[4]
OPEN_RS = ROOT / "ablations" / "open_rs"

RECIPE = """\
# lint: program=open-r1 trl=1.16.0 processes=2
model_name_or_path: deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
dataset_name: some/questions
max_completion_length: 8192
per_device_train_batch_size: 8
gradient_accumulation_steps: 2
num_generations: 8
max_steps: 100
save_strategy: "no"
reward_funcs: [accuracy, format]
reward_weights: [2.0, 1.0]
"""


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def converted(tmp_path, capsys, recipe):
    """The grid that the command prints, where it is written, and what it says has no counterpart."""
    assert lint_main([str(recipe), "--to-grid"]) == 0
    said = capsys.readouterr()
    file = tmp_path / "grid.yaml"
    file.write_text(said.out)
    return load_grid(file), file, said.err


def of_text(tmp_path, capsys, text):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    grid, file, said = converted(tmp_path, capsys, recipe)
    return grid.cells[0].recipe, file, said


@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_open_rs_comes_out_as_it_was_written_by_hand(tmp_path, capsys, number):
    grid, file, said = converted(tmp_path, capsys, OPEN_RS / "published" / f"experiment-{number}.yml")
    by_hand = load_grid(OPEN_RS / "experiments.yaml")
    wanted = next(c.recipe for c in by_hand.cells if c.levels["experiment"] == number)
    got = grid.cells[0].recipe
    for section in ("model", "prompt", "advantage", "stability"):
        assert getattr(got, section) == getattr(wanted, section), section
    assert got.data.sources == wanted.data.sources
    # Token-level ratios and the defaults of the optimiser are written out in one and left to `auto` in the other.
    assert got.objective.objective(cap=1).resolved() == wanted.objective.objective(cap=1).resolved()
    assert got.optimizer.model_copy(update={"schedule_steps": 500}) == wanted.optimizer
    vllm = got.rollout.vllm.model_copy(update={"cuda_graphs": False})
    assert got.rollout.model_copy(update={"vllm": vllm}) == wanted.rollout
    assert [(f.name, f.weight) for f in got.reward.functions] == [
        (f.name, f.weight) for f in wanted.reward.functions
    ]
    if number == "3":
        assert got.reward.functions[1].params["max_characters"] == 3584
    for name in (
        "inner_epochs",
        "minibatches",
        "logprob_temperature",
        "checkpoint_every",
        "gradient_checkpointing",
    ):
        assert getattr(got.training, name) == getattr(wanted.training, name), name
    assert (got.training.steps, grid.head.seeds) == (500, (42,))
    assert (grid.head.hardware.devices_per_run, grid.head.hardware.training_devices) == (4, 3)
    for key in ("vllm_enforce_eager", "vllm_max_model_len", "vllm_device"):
        assert f"no counterpart: {key}" in said
        assert f"#   {key}" in file.read_text()
    assert plan_main(["--grid", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "reward-swapped" in {f.rule for f in lint_file(file).findings} or number == "3"


def test_what_the_recipe_leaves_out_is_written_out_as_the_default_of_its_trl(tmp_path, capsys):
    recipe, file, _ = of_text(tmp_path, capsys, RECIPE)
    text = file.read_text()
    for line in ("beta: 0.0", "loss: dapo", "scale: group", "temperature: 1.0", "learning_rate: 1e-06"):
        assert f"{line} # trl 1.16.0's default" in " ".join(text.split("  ")), line
    assert recipe.optimizer.schedule == "linear"
    assert recipe.training.gradient_checkpointing is True
    assert recipe.model.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("line", "path", "value"),
    [
        ("learning_rate: 3e-6", "optimizer.learning_rate", 3e-6),
        ("lr_scheduler_type: constant_with_warmup\nwarmup_steps: 0.1", "optimizer.warmup_steps", 10),
        ("num_iterations: 2", "training.inner_epochs", 2),
        ("num_iterations: 2", "training.steps", 50),
        ("steps_per_generation: 8", "training.minibatches", 4),
        ("steps_per_generation: 8", "training.steps", 25),
        ("steps_per_generation: 8", "rollout.prompts_per_step", 16),
        ("steps_per_generation: 1", "rollout.prompts_per_step", 4),
        ("generation_batch_size: 64", "rollout.prompts_per_step", 8),
        ("temperature: 0.7", "rollout.temperature", 0.7),
        ("top_p: 0.9", "rollout.top_p", 0.9),
        ("beta: 0.01", "objective.beta", 0.01),
        ("beta: 0.01", "objective.kl_ratio", True),
        ("loss_type: dr_grpo\nepsilon_high: 0.28", "objective.clip_high", 0.28),
        ("loss_type: cispo\nepsilon_high: 5.0", "objective.cispo_max", 5.0),
        ("loss_type: sapo\nsapo_temperature_neg: 1.1", "objective.sapo_tau_neg", 1.1),
        ("loss_type: vespo\nvespo_k_pos: 2.5", "objective.vespo_k_pos", 2.5),
        ("importance_sampling_level: sequence", "objective.ratio_level", "sequence"),
        ("delta: 4.0", "objective.delta", 4.0),
        ("mask_truncated_completions: true", "objective.mask_truncated", True),
        ("scale_rewards: no", "advantage.scale", "none"),
        ("scale_rewards: batch", "advantage.scale", "batch"),
        ("max_grad_norm: 0.2", "optimizer.max_grad_norm", 0.2),
        ("weight_decay: 0.1", "optimizer.weight_decay", 0.1),
        ("adam_beta2: 0.95", "optimizer.betas.1", 0.95),
        ("optim: adamw_8bit", "optimizer.name", "adamw_8bit"),
        ("use_peft: yes\nlora_r: 8", "model.lora.r", 8),
        ("use_peft: yes", "model.lora.targets", ("q_proj", "v_proj")),
        ("use_peft: yes\nlora_target_modules: [o_proj]", "model.lora.targets", ("o_proj",)),
        ("gradient_checkpointing: false", "training.gradient_checkpointing", False),
        ("bf16: false", "model.dtype", "float32"),
        ("use_liger_kernel: true", "model.liger", True),
        ("attn_implementation: eager", "model.attention", "eager"),
        ("system_prompt: 'Think: \\boxed{} # well'", "prompt.system", "Think: \\boxed{} # well"),
        ("use_vllm: true", "objective.importance", "sequence_mask"),
        ("use_vllm: true", "rollout.vllm.placement", "colocated"),
        ("use_vllm: true\nvllm_mode: server", "rollout.vllm.devices", (2,)),
        ("multi_objective_aggregation: normalize_then_sum", "reward.normalization", "group"),
        ("dataset_prompt_column: problem", "data.sources.0.question", "problem"),
        ("dataset_config: main", "data.sources.0.config", "main"),
    ],
)
def test_each_setting_has_its_counterpart(tmp_path, capsys, line, path, value):
    got, _, said = of_text(tmp_path, capsys, RECIPE + line + "\n")
    for key in path.split("."):
        got = got[int(key)] if key.isdigit() else getattr(got, key)
    assert got == (pytest.approx(value) if isinstance(value, float) else value)
    assert line.partition(":")[0] not in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("top_k: 50", "top_k: 50"),
        ("fp16: true\nbf16: false", "fp16"),
        ("use_peft: true", "lora_dropout: 0.05 (0 here)"),
        ("logging_steps: 5", "logging_steps: 5"),
        ("lr_scheduler_type: polynomial", "lr_scheduler_type: polynomial (cosine instead"),
        ("report_to: none", "report_to: none"),
    ],
)
def test_what_has_no_counterpart_is_listed(tmp_path, capsys, line, words):
    _, file, said = of_text(tmp_path, capsys, RECIPE + line + "\n")
    assert f"no counterpart: {words}" in said
    assert f"#   {words}" in file.read_text()


def test_a_share_of_an_unknown_number_of_steps_is_listed(tmp_path, capsys):
    text = RECIPE.replace("max_steps: 100", "num_train_epochs: 1\nwarmup_ratio: 0.1")
    recipe, _, said = of_text(tmp_path, capsys, text)
    assert recipe.optimizer.warmup_steps == 0
    assert (
        "warmup_ratio: 0.1 (a share of steps whose number is not known: set `optimizer.warmup_steps`)" in said
    )


def test_an_unknown_reward_and_epochs_are_listed_too(tmp_path, capsys):
    text = RECIPE.replace("format]", "mine]").replace("max_steps: 100\n", "num_train_epochs: 1\n")
    recipe, _, said = of_text(tmp_path, capsys, text)
    assert [f.name for f in recipe.reward.functions] == ["accuracy"]
    assert "mine, weight 1" in said
    assert "num_train_epochs: 1 (set `training.steps`)" in said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dataset_name: some/questions\n", "", "dataset_name: missing"),
        ("[accuracy, format]", "[mine, yours]", "none of them has a counterpart"),
        ("num_generations: 8", "num_generations: 5", "do not come out in groups of 5"),
        (
            "max_steps: 100",
            "max_steps: 100\nsteps_per_generation: 3",
            "no multiple of `gradient_accumulation_steps`",
        ),
        ("max_steps: 100", "max_steps: 100\nloss_type: mine", "is no loss of this harness"),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path, capsys, old, new, words):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace(old, new))
    assert lint_main([str(recipe), "--to-grid"]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
    assert len(said.err.splitlines()) <= 3


def test_a_grid_is_not_converted(capsys):
    assert lint_main([str(ROOT / "ablations" / "quickstart.yaml"), "--to-grid"]) == 2
    assert "not a recipe of trl" in capsys.readouterr().err


def test_a_sound_recipe_makes_a_sound_grid(tmp_path, capsys):
    text = RECIPE + "lr_scheduler_type: constant\nseed: 7\n# lint: waive top-p: kept\n"
    _, file, _ = of_text(tmp_path, capsys, text)
    linted = lint_file(file)
    assert clean(linted.findings) or [f.rule for f in linted.findings if f.waived is None] == [
        "unknown-waiver"
    ]
    assert load_grid(file).head.seeds == (7,)
