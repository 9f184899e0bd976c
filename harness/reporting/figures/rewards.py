"""The curve of every reward: what a right and a wrong answer earn at each length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from harness.reporting.figures.theme import LIGHT, drawing, inline_svg, new_figure, painting, standalone_svg
from harness.rewards.builtin import REWARDS
from harness.spec.errors import SpecError
from harness.spec.lint.reward_rules import curve
from harness.spec.recipe import RewardFunctionSpec, RewardSpec

CAP = 3584
"""Length cap under which the built-in rewards are drawn, in tokens."""
BUILT_IN = {name: (RewardSpec(functions=(RewardFunctionSpec(name=name),)), CAP) for name in REWARDS}
"""Every built-in reward alone, with its default parameters."""
COLUMNS = 3


def draw(rewards: Mapping[str, tuple[RewardSpec, int]], out: Path) -> None:
    """Draws rewards side by side, each over the lengths up to its cap, and writes the picture.

    Args:
        rewards: reward and length cap, in tokens, by the name to print above it.
        out: where to; `.svg` follows the viewer's light or dark setting, anything else is a raster image.

    Raises:
        SpecError: `out` has another suffix, or cannot be written.
    """
    if out.suffix not in (".svg", ".png"):
        raise SpecError(f"--plot {out}: must end in .svg or .png, got {out.suffix!r}")
    svg = out.suffix == ".svg"
    with drawing() if svg else painting(LIGHT) as theme:
        columns = min(COLUMNS, len(rewards))
        rows = math.ceil(len(rewards) / columns)
        figure, axes = new_figure(3.4 * columns, 2.5 * rows, rows, columns)
        for axis, (name, (reward, cap)) in zip(axes, rewards.items(), strict=False):
            shape = curve(reward, cap)
            lines = (
                ("right", shape.right, "-", 2),
                ("wrong", shape.wrong, "--", 1),
                ("right, out of layout", shape.unlaid, ":", 0),
            )
            for label, values, style, colour in lines if shape.unlaid != shape.right else lines[:2]:
                axis.plot(shape.tokens, values, style, color=theme.series(colour), label=label)
            axis.set_title(_wrapped(name), color=theme.ink)
            axis.grid(axis="y", color=theme.grid)
            low, high = axis.get_ylim()
            middle, reach = (low + high) / 2, max(0.6, (high - low) / 2)
            axis.set_ylim(middle - 1.1 * reach, middle + 1.1 * reach)
            axis.set_xlabel("tokens")
        for axis in axes[len(rewards) :]:
            axis.set_axis_off()
        handles = {str(handle.get_label()): handle for axis in axes for handle in axis.lines}
        axes[0].legend(list(handles.values()), list(handles))
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if svg:
                label = "reward of a right and a wrong answer over its length: " + ", ".join(rewards)
                out.write_text(standalone_svg(inline_svg(figure, "rewards", label)), encoding="utf-8")
            else:
                figure.savefig(out, dpi=150)
        except OSError as error:
            raise SpecError(f"--plot {out}: cannot be written: {error}") from None


def _wrapped(name: str, width: int = 34) -> str:
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)
