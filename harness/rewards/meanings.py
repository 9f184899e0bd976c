r"""What one text may mean: where an argument ends, `\sin\theta / g`, and who a parameter is, `k \in \mathbb{Z}`."""

from __future__ import annotations

import re

from harness.rewards.spelling import spelled

_NAME = r"(?:\\|(?<![A-Za-z\\]))(?:(?:arc)?(?:sin|cos|tan|cot|sec|csc)|sinh|cosh|tanh|ln|log|exp)(?![a-z])"
_FUNCTION = re.compile(rf"(?:{_NAME})\s*(?:[\^_]\s*(?:\{{[^{{}}]*\}}|\\?\w)\s*)*")
_END = re.compile(
    rf"(?P<opening>\\\{{|[({{\[])|(?P<closing>\\\}}|[)}}\]])|(?P<factor>/|\*|\\cdot(?![a-z])|\\times(?![a-z]))"
    rf"|(?P<other>[-+=<>,;|&]|{_NAME}|\\(?:leq|geq|neq|pm|mp|in|text|approx|quad|\\)(?![a-z]))"
)
_BARS = re.compile(r"\s*\|[^|]*\|")
_CONSTANT = re.compile(r"\\(?:pi|frac|sqrt)(?![a-z])")
_DIVISOR = re.compile(r"\s*(?:\{([^{}]*)\}|(\\?\w+))")

_KIND = r"(?:an?\s+|any\s+|arbitrary\s+)*(?P<{}>integer|natural|real|constant)(?:\s+(?:number|constant))?s?"
_CLAUSE = re.compile(
    r"(?P<rest>.*?\S)\s?(?:[,;(]\s?(?:(?:where|for|with)\s)?|\s(?:where|for|with)\s)(?:(?:all|any|some|every|each|\\forall)\s+)?"
    r"(?:(?P<in>[A-Za-z])\s*\\in\s*\\math(?:bb|bf)\s*\{?\s*(?P<set>[ZNR])\s*\}?"
    rf"|(?P<is>[A-Za-z])\s+is\s+{_KIND.format('told')}|{_KIND.format('kind')}\s+(?P<named>[A-Za-z]))[\s).]*",
    re.DOTALL,
)
"""`, k \\in \\mathbb{Z}`, ` where k is an integer`, ` for any integer k` at the end of an answer."""
_KINDS = {"integer": "Z", "natural": "N", "real": "R", "constant": "R"}
_UNFOLDED = (
    (re.compile(r"\\(?:text(?:rm|it|normal)?|mathrm|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\q?quad(?![a-z])|\\[,;: ]|~|(?<!\\)\$"), " "),
    (re.compile("∈"), r"\\in "),
    *((re.compile(sign), rf"\\mathbb{{{letter}}}") for sign, letter in zip("ℤℕℝ", "ZNR", strict=True)),
)
_NARROWS = re.compile(r"[<>≤≥≠]|\\(?:leq?|geq?|neq?|leqslant|geqslant|in|mid)(?![a-z])")
LONGEST = 300
"""Characters of an answer that is looked through for a clause."""


def meanings(text: str) -> tuple[str, ...]:
    r"""An answer, and the same with its functions closed before `/`, `*` and `\cdot` where that may be meant.

    `\sin\theta / g` is read by the algebra system as the sine of a quotient. Of `\ln x / x` the second reading is the
    only one: nobody writes the logarithm of one so.
    """
    closed, ambiguous, only = _closed(spelled(text))
    if not ambiguous:
        return (text,)
    return (closed,) if only else (text, closed)


def _closed(text: str) -> tuple[str, bool, bool]:
    """The text with brackets around its functions, whether one ends before a factor, and whether one must."""
    inserts: list[tuple[int, str]] = []
    ambiguous = only = False
    for function in _FUNCTION.finditer(text):
        start = function.end()
        if text[start : start + 1] == "(":
            continue
        end, factor = _argument(text, start)
        argument = text[start:end].strip()
        if not argument or (factor == "/" and _is_angle(function[0], argument)):
            continue
        inserts += [(function.start(), "("), (end, ")")]
        ambiguous |= bool(factor)
        if factor == "/" and (divisor := _DIVISOR.match(text, end + 1)):
            only |= (divisor[1] or divisor[2]).strip() == argument
    for at, bracket in sorted(inserts, key=lambda at: (at[0], at[1] == "("), reverse=True):
        text = text[:at] + bracket + text[at:]
    return text, ambiguous, only


def _is_angle(function: str, argument: str) -> bool:
    r"""Whether a number follows a function of angles, as in `\sin \pi/3`, whose divisor everyone takes with it."""
    logarithm = re.match(r"\\?(?:ln|log)", function)
    return not logarithm and not re.search("[A-Za-z]", _CONSTANT.sub("", argument))


def _argument(text: str, start: int) -> tuple[int, str]:
    """Where an argument without brackets ends, and the factor behind it: `/`, `*` or an opening bracket."""
    depth, position = 0, start
    if bars := _BARS.match(text, start):
        position = bars.end()
    while found := _END.search(text, position):
        position = found.end()
        if found["opening"]:
            before = text[start : found.start()].rstrip()
            if depth == 0 and found[0] == "(" and before and before[-1] not in "^_}":
                return found.start(), "("
            depth += 1
        elif found["closing"]:
            if depth == 0:
                return found.start(), ""
            depth -= 1
        elif depth == 0:
            return found.start(), (found["factor"] or "")[:1].replace("\\", "*")
    return len(text), ""


def without_clause(gold: str, answer: str) -> tuple[str, str]:
    r"""Reference and answer without `, k \in \mathbb{Z}`, where one has no such clause or both have the same.

    A clause that narrows inequalities or sets down is a part of the answer, and stays.
    """
    first, second = _clause(gold), _clause(answer)
    if first is not None and second is not None and first[1:] != second[1:]:
        return gold, answer
    return (first[0] if first else gold), (second[0] if second else answer)


def _clause(text: str) -> tuple[str, str, str] | None:
    """What stands before the clause, its parameter, and of what kind that is; None where there is no clause."""
    if len(text) > LONGEST or not re.search(r"\\in(?![a-z])|∈|integer|number|constant", text):
        return None
    for pattern, replacement in _UNFOLDED:
        text = pattern.sub(replacement, text)
    match = _CLAUSE.fullmatch(" ".join(text.split()))
    if match is None or _NARROWS.search(match["rest"]):
        return None
    letter = match["in"] or match["is"] or match["named"]
    kind = match["set"] or match["told"] or match["kind"]
    rest = match["rest"].rstrip(" ,;(")
    if letter not in re.sub(r"\\[A-Za-z]+", "", rest.rpartition("=")[2]):
        return None
    return rest, letter, _KINDS.get(kind, kind)
