"""What lint says of prompts: findings at the field that is to be mended, and nothing where all is well."""

from __future__ import annotations

import pytest

from harness.matrix.planning.prompt_rules import prompt_findings
from harness.spec.grid import load_grid
from tests.harness.models import folders

GRID = """
name: prompts
question: what does the model see?
base:
  model: {model}
  data: {{sources: [{{source: sums}}], size: 8}}
  reward: {{functions: [{{name: accuracy}}, {{name: {reward}}}]}}
  prompt: {prompt}
axes:
  rate: {{optimizer.learning_rate: [1e-6, 1e-5]}}
seeds: [0, 1]
evaluate: {{benchmarks: [{{name: easy, questions: 4, source: {{source: sums}}}}]}}
"""
TINY = (folders.FOLDER / "chat_template.jinja").read_text()
OPEN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>"
MOVING = (
    "{% set s = messages[0].content + '\n' if messages[0].role == 'system' else '' %}"
    "<user>{{ s }}{{ messages[-1].content }}{% if add_generation_prompt %}<assistant>{% endif %}"
)
DATED = "{{ date_string or strftime_now('%d %b') }}" + OPEN + "{% endif %}"


@pytest.fixture
def found(tmp_path):
    def look(template=TINY, prompt="{}", reward="boxed"):
        folder = folders.template(folders.copy_tiny(tmp_path / "m"), template)
        (tmp_path / "grid.yaml").write_text(GRID.format(model=folder, prompt=prompt, reward=reward))
        findings = prompt_findings(load_grid(tmp_path / "grid.yaml"))
        return [(f.rule, f.severity, f.place.key, f.place.line) for f in findings]

    return look


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({"template": None}, ("chat-template", "error", "base.prompt.format")),
        (
            {"template": TINY, "prompt": "{template_args: {mood: 1}}"},
            ("chat-template", "error", "base.prompt.template_args"),
        ),
        ({"template": MOVING, "prompt": "{system: Think.}"}, ("system-moved", "info", "base.prompt.system")),
        ({"template": DATED}, ("prompt-date", "warning", "base.prompt.template_args")),
        ({"reward": "format_strict"}, ("opened-thought", "info", "base.reward.functions[1]")),
        ({"reward": "tag_count"}, ("opened-thought", "info", "base.reward.functions[1]")),
        (
            {"template": OPEN + "<think>\n\n</think>\n\n{% endif %}", "reward": "format"},
            ("opened-thought", "warning", "base.reward.functions[1]"),
        ),
        (
            {
                "template": None,
                "reward": "format_strict",
                "prompt": '{format: raw, template: "{question}<think>"}',
            },
            ("opened-thought", "info", "base.reward.functions[1]"),
        ),
    ],
)
def test_what_is_told_once(found, options, finding):
    told = found(**options)
    assert [one[:3] for one in told] == [finding]
    assert told[0][3]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reward": "format"},
        {"prompt": "{system: Think.}"},
        {"template": MOVING},
        {"template": DATED, "prompt": "{template_args: {date_string: 1 May}}"},
        {"template": OPEN + "{% endif %}", "reward": "format_strict"},
        {"template": None, "prompt": '{format: raw, template: "{question}"}'},
    ],
)
def test_nothing_is_told_where_all_is_well(found, options):
    assert found(**options) == []
