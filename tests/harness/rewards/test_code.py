"""The code behind an own reward: what belongs to it, what changes it, and that it is never run."""

from __future__ import annotations

import sys

import pytest

from harness.rewards.code import changed_parts, code_fields, reward_code
from harness.rewards.errors import UnknownReward


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules below a folder of the search path; a module that is run leaves a mark."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def write_(**files):
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            mark = "open('was-run', 'w').close()\n"
            path.write_text(mark + text, encoding="utf-8")

    yield write_
    assert not (tmp_path / "was-run").exists()


REWARD = (
    "import helper_of_mine\ndef reward(batch, context):\n    return [helper_of_mine.f(i) for i in batch]\n"
)


def test_local_modules_count_however_deep_and_installed_ones_do_not(write):
    write(
        mine=REWARD + "import json, numpy, harness.rewards.boxed\n",
        helper_of_mine="def f(item):\n    from pack.inner import g\n    return g(item)\n",
        pack__init="",
        pack__inner="from . import sibling\nfrom .other import thing\nimport_module('by_name')\n",
        pack__sibling="",
        pack__other="thing = 1\n",
        by_name="",
        unrelated="",
    )
    (path := sys.path[0])
    (init := __import__("pathlib").Path(path, "pack", "init.py")).rename(init.with_name("__init__.py"))
    modules = {"mine", "helper_of_mine", "pack", "pack.inner", "pack.sibling", "pack.other", "by_name"}
    assert reward_code("mine:reward").keys() == modules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# a comment\ndef   f( item ):\n\n    return   1.0  # another\nSCALE = 2\n", []),
        ("def f(item):\n    return 1.5\nSCALE = 2\n", ["`f` changed"]),
        ("def f(item):\n    return 1.0\nSCALE = 3\n", ["`SCALE` changed"]),
        ("def f(item):\n    return 1.0\nSCALE = 2\ndef g(): pass\n", ["`g` added"]),
        ("SCALE = 2\nfrom math import floor as f\n", ["module level changed", "`f` removed"]),
        ("def f(item):\n    return True\nSCALE = 2\n", ["`f` changed"]),  # 1.0 == True
        ("def f(item):\n    return None\nSCALE = 2\n", ["`f` changed"]),
        ("def f(item):\n    return\nSCALE = 2\n", ["`f` changed"]),
    ],
)
def test_what_changes_a_module(write, text, words):
    write(mine=REWARD, helper_of_mine="def f(item):\n    return 1.0\nSCALE = 2\n")
    before = reward_code("mine:reward")
    write(helper_of_mine=text)
    after = reward_code("mine:reward")
    assert after["mine"] == before["mine"]
    assert changed_parts(before["helper_of_mine"], after["helper_of_mine"]) == words


def test_a_bare_return_is_not_a_return_of_none(write):
    write(mine=REWARD, helper_of_mine="def f(item):\n    return\n")
    bare = reward_code("mine:reward")
    write(helper_of_mine="def f(item):\n    return None\n")
    assert reward_code("mine:reward") != bare


def test_digests_stay_what_they_were(write):
    """They are part of identities: the same for every version of Python and of this product."""
    write(
        mine="def reward(batch, context, *, k: int = 3):\n    return [f'{x!r:>{k}}' in {None: 1} for x in batch]\n"
    )
    assert reward_code("mine:reward") == {"mine": {"module level": "2d86293fa2c5", "reward": "112c01acfe48"}}


def test_built_in_rewards_have_no_code_of_their_own():
    assert code_fields(["accuracy", "cosine"]) == {}


def test_what_is_not_there_or_is_no_python(write):
    with pytest.raises(UnknownReward, match="put the folder of the module on PYTHONPATH"):
        reward_code("nowhere_to_be_found:f")
    write(mine="def broken(:\n")
    with pytest.raises(UnknownReward, match=r"mine\.py:2: "):
        reward_code("mine:f")
