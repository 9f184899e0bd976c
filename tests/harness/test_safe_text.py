"""What may be shown: control characters become visible, secrets do not."""

from __future__ import annotations

import pandas as pd
import pytest

from harness import safe_text
from harness.cli.exits import guarded
from harness.reporting.formats import csv_text, no_formula, with_formula
from harness.reporting.sources.external import _read_table
from harness.spec.errors import SpecError


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0a1b2c3d4e5f6a7b")
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    (tmp_path / "token").write_text("hf_AbCdEfGhIjKl\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("bell\x07 back\x08 return\r", "bell\\x07 back\\x08 return\\r"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u200bb\ufeff\ud800", "a\\u200bb\\ufeff\\ud800"),
        ("one\ttab\nline", "one\ttab\nline"),
        ("γ = ½, 数", "γ = ½, 数"),
    ],
)
def test_control_characters_are_shown(text, shown):
    assert safe_text.visible(text) == shown


def test_secrets_are_replaced_by_their_names(environment):
    text = "401 for 0a1b2c3d4e5f6a7b, user:correct-horse@db, hf_AbCdEfGhIjKl"
    assert safe_text.redacted(text) == "401 for <WANDB_API_KEY>, user:<DB_PASSWORD>@db, <HF_TOKEN>"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_KEY", "short"),  # it occurs in innocent text
        ("MY_TOKEN", "tokenizer"),  # a word
        ("SSH_KEY", __file__),  # where a key is, not what it is
        ("TOKEN", "12345678"),
        ("TOKENIZERS_PARALLELISM", "0a1b2c3d4e"),
        ("MONKEYS", "0a1b2c3d4e"),
    ],
)
def test_what_is_no_secret_stays(monkeypatch, tmp_path, name, value):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv(name, value)
    assert safe_text.redacted(f"it says {value}.") == f"it says {value}."


def test_a_log_is_redacted_in_place(environment, tmp_path):
    log = tmp_path / "log.txt"
    with log.open("a") as held:
        held.write("token hf_AbCdEfGhIjKl\n")
        held.flush()
        safe_text.redact_file(log)
        held.write("goes on\n")
    assert log.read_text() == "token <HF_TOKEN>\ngoes on\n"


@pytest.mark.parametrize(
    "error", [SpecError("key 0a1b2c3d4e5f6a7b\x1b[2J"), RuntimeError("0a1b2c3d4e5f6a7b\x1b[2J")]
)
def test_errors_of_commands_are_safe_to_show(environment, capsys, tmp_path, error):
    def fail():
        raise error

    log = tmp_path / "error.log"
    assert guarded(fail, log) in (2, 4)
    shown = capsys.readouterr().err
    assert "<WANDB_API_KEY>\\x1b[2J" in shown
    assert "0a1b2c3d4e5f6a7b" not in shown + (log.read_text() if log.exists() else "")


@pytest.mark.parametrize(
    "text", ["=1+1", "+a", "-a", "@x", "-1+1|' /C x'!A0", "+A1 points", "\tx", "\r=x", "'=1", "''+x"]
)
def test_formulas_become_text_and_come_back(text):
    assert no_formula(text) == f"'{text}"
    assert with_formula(no_formula(text)) == text


@pytest.mark.parametrize("text", ["-0.5", "+3", "-1e-6", "+3.1 points", "easy", "'quoted'", "a=b", "–", "'"])
def test_numbers_and_plain_text_are_left_alone(text):
    assert no_formula(text) == with_formula(text) == text


def test_an_exported_table_holds_no_formula_and_is_read_back(tmp_path):
    frame = pd.DataFrame({"=cmd|' /C calc'!A0": ["=1+1", "x"], "accuracy": [-0.25, 1.0]})
    text = csv_text(frame)
    assert text == "'=cmd|' /C calc'!A0,accuracy\n'=1+1,-0.25\nx,1\n"
    (tmp_path / "t.csv").write_text(text)
    read = _read_table(tmp_path / "t.csv")
    assert list(read.columns) == list(frame.columns)
    assert list(read["=cmd|' /C calc'!A0"]) == ["=1+1", "x"]
