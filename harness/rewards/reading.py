"""Reads an answer into its form (`forms`): lists first, then relations, sets and brackets, quantities last."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from harness.rewards.compound import SPOKEN, compound
from harness.rewards.exact import as_words, base_of
from harness.rewards.forms import (
    COMPLEXES,
    EMPTY,
    INTEGERS,
    NATURALS,
    RATIONALS,
    REALS,
    Based,
    Combined,
    Dots,
    Form,
    Matrix,
    Named,
    Quantity,
    Ratio,
    Relation,
    Several,
    Span,
    Words,
    is_variable,
    point_named,
)
from harness.rewards.spelling import spelled
from harness.rewards.units import split_unit

MAX_DEPTH = 12
"""Brackets within brackets beyond this are left to the algebra system."""
MAX_SIGNS = 4
"""More signs ± than this in one expression are not read."""

_NAMED = {
    **dict.fromkeys(
        (
            "\\emptyset",
            "\\{\\}",
            "emptyset",
            "theemptyset",
            "nullset",
            "thenullset",
        ),
        EMPTY,
    ),
    **dict.fromkeys(
        ("\\mathbb{R}", "allrealnumbers", "allreals", "realnumbers", "thereals", "therealnumbers"), REALS
    ),
    **dict.fromkeys(
        ("setofrealnumbers", "thesetofrealnumbers", "setofallrealnumbers", "thesetofallrealnumbers"), REALS
    ),
    **dict.fromkeys(("\\mathbb{Z}", "allintegers", "integers", "theintegers"), INTEGERS),
    **dict.fromkeys(("\\mathbb{Q}", "allrationalnumbers", "allrationals", "rationalnumbers"), RATIONALS),
    **dict.fromkeys(("\\mathbb{N}", "allnaturalnumbers", "naturalnumbers"), NATURALS),
    **dict.fromkeys(("\\mathbb{C}", "allcomplexnumbers", "complexnumbers"), COMPLEXES),
}
_NO_SOLUTION = re.compile(r"(?:there(?:is|are|exists?))?no(?:real)?(?:solutions?|roots?)(?:exists?)?")
_SIGN = re.compile(
    r"\\(leq|geq|neq|approx|in|notin|equiv|subset|subseteq|to|rightarrow|mapsto)(?![A-Za-z])|[<>=]"
)
_INEQUALITY = re.compile(r"[<>]|\\(?:leq|geq|neq)(?![A-Za-z])")
_SET_SIGN = re.compile(r"\\(cup|cap|setminus)(?![A-Za-z])")
_AND = re.compile(
    r"\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|(?<=\d)(?:and|or)(?=[a-z]\s*=)|\\(?:lor|land|vee|wedge)(?![A-Za-z])"
)
_COMMA = re.compile(r"[,;]")
_COLON = re.compile(r":|\\colon(?![A-Za-z])|\\text\{\s*(?:to|:)\s*\}|(?<=[\d}\s])\bto\b(?=[\d\s\\])")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_MATRIX = re.compile(
    r"(?:[(\[]\s*)?\\begin\{([pb]?(?:small)?matrix|array)\}(?:\s*\{[lcr|\s]*\})?(.*?)\\end\{\1\}(?:\s*[)\]])?",
    re.DOTALL,
)
_APPROXIMATE = re.compile(
    r"^(?:\\approx|(?:\\text\{\s*)?(?:about|approximately|approx\.?|roughly|around)(?:\s*\}|\s)(?:\s*\\approx)?)\s*"
)


@lru_cache(maxsize=4096)
def read(
    text: str, *, attached: bool = True, listed: bool = False, symbols: frozenset[str] = frozenset()
) -> Form:
    """Reads an answer.

    Args:
        text: of the final answer or the reference.
        attached: whether a letter that touches a number may be a unit.
        listed: whether commas list entries even where they could group thousands.
        symbols: letters that are no units, since the other side has them in expressions.
    """
    return _Reader(attached, symbols).form(spelled(text, listed=listed), 0)


_CONDITIONS = frozenset(
    (
        "all",
        "any",
        "some",
        "every",
        "each",
        "no",
        "not",
        "none",
        "if",
        "when",
        "for",
        "unless",
        "except",
        "or",
        "and",
    )
)
"""Words that make more of the words before an equals sign than a name."""


class _Reader:
    def __init__(self, attached: bool, symbols: frozenset[str]) -> None:
        self._attached = attached
        self._symbols = symbols

    def form(self, text: str, depth: int) -> Form:
        text = _trimmed(text)
        if depth == 0:
            text = point_named(text) or text
        squashed = _squashed(text)
        if (named := EMPTY if _NO_SOLUTION.fullmatch(squashed) else _NAMED.get(squashed)) is not None:
            return Named(named)
        if depth > MAX_DEPTH:
            return Quantity(text)
        if (based := base_of(text)) is not None:
            digits, base = based
            return Quantity(digits) if base == 10 else Based(digits, base)
        if (told := compound(text)) is not None:
            return Quantity(*told)
        structure = self._structure(text, depth)
        if structure is not None and not _verbal(structure):
            return structure
        words = as_words(text)
        if words is not None and self._quantity(text) is None:
            return Quantity(str(SPOKEN[words])) if words in SPOKEN else Words(words)
        return structure or self._leaf(text)

    def _structure(self, text: str, depth: int) -> Form | None:
        """Lists, relations, sets, intervals, matrices and ratios; None where the text is none of them."""
        for read in (
            self._list,
            self._relation,
            self._combined,
            self._signs,
            self._bracketed,
            self._matrix,
            self._ratio,
        ):
            if (found := read(text, depth)) is not None:
                return found
        return None

    def _list(self, text: str, depth: int) -> Form | None:
        outer = [part for part in _split(text, _AND) if part.strip(" ,;")]
        rows = [[part for part in _split(piece.strip(" ,;"), _COMMA) if part.strip()] for piece in outer]
        if sum(map(len, rows)) < 2:
            return None
        if (conditions := self._conditions(text, outer, depth)) is not None:
            return conditions
        related = all(len(row) > 1 and all(_SIGN.search(part) for part in row) for row in rows)
        if len(rows) > 1 and related:
            return Several(tuple(Several(tuple(self._entries(row, depth)), "()") for row in rows))
        return Several(tuple(self._entries([part for row in rows for part in row], depth)))

    def _conditions(self, text: str, parts: list[str], depth: int) -> Form | None:
        """Inequalities of one variable joined by `and`, `or`, the comma of `x > 0, x ≠ 1`; else None."""
        separator = _AND
        if len(parts) == 1 and "\\neq" in text:
            separator, parts = _COMMA, _split(text, _COMMA)
            if not any("\\neq" not in part for part in parts):
                return None
        if len(parts) < 2 or not all(_INEQUALITY.search(part) and "," not in part for part in parts):
            return None
        if len(set(re.findall(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", " ".join(parts)))) != 1:
            return None
        joints: list[str] = []
        _split(text, separator, joints)
        if len(joints) != len(parts) - 1:
            return None
        form = self.form(parts[0], depth + 1)
        for joint, part in zip(joints, parts[1:], strict=True):
            operator = "\\cap" if re.search("and|land|wedge|[,;]", joint) else "\\cup"
            form = Combined(operator, (form, self.form(part, depth + 1)))
        return form

    def _entries(self, parts: list[str], depth: int) -> Iterator[Form]:
        """The entries of a list: x = 2, 5 are two values of x, and ±2 are two entries."""
        variable: Form | None = None
        for part in parts:
            entry = Dots() if part.strip() == "\\ldots" else self.form(point_named(part) or part, depth + 1)
            if isinstance(entry, Relation) and entry.signs == ("=",):
                variable = entry.sides[0]
            elif (
                variable is not None and isinstance(entry, Quantity | Several) and not isinstance(entry, Dots)
            ):
                entry = _assigned(variable, entry)
            yield from entry.items if isinstance(entry, Several) and not entry.brackets else (entry,)

    def _relation(self, text: str, depth: int) -> Form | None:
        signs: list[str] = []
        sides = _split(text, _SIGN, signs)
        if leading := re.match(r"(?:\\approx|=)\s*(?=\S)", text):
            return self.form(text[leading.end() :], depth + 1)
        if len(sides) < 2 or not all(side.strip() for side in sides):
            return None
        forms = tuple(self.form(side, depth + 1) for side in sides)
        if signs == ["="] and isinstance(forms[0], Words) and not _CONDITIONS & set(forms[0].text.split()):
            return forms[1]  # `\\text{Total cost} = 12`
        if set(signs) <= {"=", "\\in"} and len(forms) == 2:
            variable, values = forms
            plural = isinstance(values, Several) and values.brackets in ("", "{}")
            if plural and isinstance(variable, Quantity) and is_variable(variable.text):
                return _assigned(variable, values)
        if (
            set(signs) == {"="}
            and len(forms) > 2
            and all(isinstance(s, Quantity) and is_variable(s.text) for s in forms[:-1])
        ):
            return Several(tuple(Relation((side, forms[-1]), ("=",)) for side in forms[:-1]))
        return Relation(forms, tuple(signs))

    def _combined(self, text: str, depth: int) -> Form | None:
        signs: list[str] = []
        parts = _split(text, _SET_SIGN, signs)
        if len(parts) < 2:
            return None
        form = self.form(parts[0], depth + 1)
        for sign, part in zip(signs, parts[1:], strict=True):
            form = Combined(sign, (form, self.form(part, depth + 1)))
        return form

    def _signs(self, text: str, depth: int) -> Form | None:
        count = len(_PLUS_MINUS.findall(text))
        if not count or count > MAX_SIGNS:
            return None
        upper = text.replace("\\pm", "+").replace("\\mp", "-")
        lower = text.replace("\\pm", "-").replace("\\mp", "+")
        return Several(
            (
                self.form(re.sub(r"^\s*\+", "", upper), depth + 1),
                self.form(re.sub(r"^\s*\+", "", lower), depth + 1),
            )
        )

    def _bracketed(self, text: str, depth: int) -> Form | None:
        for opening, closing in (
            ("\\{", "\\}"),
            ("(", ")"),
            ("[", "]"),
            ("(", "]"),
            ("[", ")"),
            ("\\langle", "\\rangle"),
        ):
            if not (text.startswith(opening) and text.endswith(closing)) or not _is_whole(
                text, opening, closing
            ):
                continue
            inside = text[len(opening) : len(text) - len(closing)]
            parts = _split(inside, _COMMA)
            if opening == "\\{":
                if re.search(r"\\mid|\||:", inside):
                    return self._comprehension(inside, depth)
                found = self.form(inside, depth + 1)
                return Several(
                    found.items if isinstance(found, Several) and not found.brackets else (found,), "{}"
                )
            if len(parts) < 2:
                return (
                    self.form(inside, depth + 1)
                    if opening + closing in ("()", "[]") and inside.strip()
                    else None
                )
            forms = tuple(self._entries(parts, depth))
            if opening + closing in ("(]", "[)"):
                return Span(forms[0], forms[1], opening == "(") if len(forms) == 2 else None
            return Several(forms, "<>" if "langle" in opening else opening + closing)
        return None

    def _comprehension(self, inside: str, depth: int) -> Form | None:
        """Set-builder notation over the reals: `\\{x \\mid x > 2\\}`."""
        _, condition = re.split(r"\\mid|\||:", inside, maxsplit=1)
        found = self.form(condition, depth + 1)
        return found if isinstance(found, Relation) else None

    def _matrix(self, text: str, depth: int) -> Form | None:
        match = _MATRIX.fullmatch(text)
        if match is None or "\\begin" in match[2]:
            return None
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![A-Za-z])", match[2]) if row.strip()]
        cells = tuple(tuple(self.form(cell, depth + 1) for cell in row.split("&")) for row in rows)
        return Matrix(cells)

    def _ratio(self, text: str, depth: int) -> Form | None:
        parts = _split(text, _COLON)
        if len(parts) < 2 or not all(part.strip() for part in parts):
            return None
        return Ratio(tuple(self.form(part, depth + 1) for part in parts))

    def _quantity(self, text: str) -> Quantity | None:
        body, unit = split_unit(text, attached=self._attached, symbols=self._symbols)
        if unit is None or as_words(body) is not None or "\\text" in body:
            return None
        return Quantity(_trimmed(body), unit)

    def _leaf(self, text: str) -> Form:
        return self._quantity(text) or Quantity(text)


def _assigned(variable: Form, values: Form) -> Form:
    """Values of a variable: `x = 2, 5` as x = 2 and x = 5."""
    if isinstance(values, Several):
        return replace(
            values,
            items=tuple(v if isinstance(v, Dots) else Relation((variable, v), ("=",)) for v in values.items),
        )
    return Relation((variable, values), ("=",))


def _verbal(form: Form) -> bool:
    """Whether some entry is words: then the whole is."""
    if isinstance(form, Several):
        return any(map(_verbal, form.items))
    if isinstance(form, Relation):
        return any(map(_verbal, form.sides))
    if isinstance(form, Combined):
        return any(map(_verbal, form.parts))
    if isinstance(form, Ratio):
        return any(map(_verbal, form.terms))
    return isinstance(form, Words)


def _trimmed(text: str) -> str:
    text = text.strip()
    text = _APPROXIMATE.sub("", text)
    if text.startswith("\\text{") and text.endswith("}") and _is_whole(text[5:], "{", "}"):
        text = text[6:-1].strip()
    while text.startswith("{") and text.endswith("}") and _is_whole(text, "{", "}"):
        text = text[1:-1].strip()
    return text


def _squashed(text: str) -> str:
    """A text that may name a set, without spaces, and in words without capitals."""
    if len(text) > 80:
        return ""
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).replace(" ", "").rstrip(".")
    return bare if "\\" in bare else bare.lower()


_BRACKET = re.compile(r"\\\{|\\\}|\\langle|\\rangle|\\begin|\\end|[()\[\]{}]")
_OPENING = frozenset(("\\{", "(", "[", "{", "\\langle", "\\begin"))


def _split(text: str, separator: re.Pattern[str], found: list[str] | None = None) -> list[str]:
    """The pieces of a text between separators outside of all brackets."""
    scanner = re.compile(f"(?P<bracket>{_BRACKET.pattern})|(?P<separator>{separator.pattern})")
    pieces, depth, start, position = [], 0, 0, 0
    while match := scanner.search(text, position):
        position = max(match.end(), position + 1)
        if match["bracket"] and not (match["separator"] and depth == 0):
            depth += 1 if match["bracket"] in _OPENING else -1
        elif depth == 0:
            pieces.append(text[start : match.start()])
            start = match.end()
            if found is not None:
                found.append(match["separator"])
    return [*pieces, text[start:]]


def _is_whole(text: str, opening: str, closing: str) -> bool:
    """Whether the first bracket is closed by the last."""
    depth = 0
    for match in _BRACKET.finditer(text):
        depth += 1 if match[0] in _OPENING else -1
        if depth == 0:
            return match.end() == len(text)
    return False
