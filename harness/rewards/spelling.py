"""One spelling for every way to write the same: fonts, spaces, degrees, thousands, exponents, repeating decimals."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

MAX_EXPONENT = 3000
"""Numbers with a larger power of ten are left as they stand, and are then not read."""

DEGREE = "°"
WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"))

_SYMBOLS = {
    **{
        "−": "-",
        "–": "-",
        "—": "-",
        "×": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "÷": "/",
        "±": "\\pm ",
        "∓": "\\mp ",
    },
    **{
        "≤": "\\leq ",
        "≥": "\\geq ",
        "≠": "\\neq ",
        "≈": "\\approx ",
        "∞": "\\infty ",
        "π": "\\pi ",
        "∅": "\\emptyset ",
    },
    **{
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∈": "\\in ",
        **{double: f"\\mathbb{{{letter}}}" for double, letter in zip("ℝℤℚℕℂ", "RZQNC", strict=True)},
        "→": "\\to ",
        "…": "\\ldots ",
    },
    **{
        "％": "\\%",
        "℃": "°C",
        "℉": "°F",
        "º": "°",
        "˚": "°",
        "µ": "μ",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    },
}
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙᵢⱼₖ]+")
_ONE_SIGN_FRACTION = re.compile("[½¼¾⅐-⅞]")
_ROOT_SIGN = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_ANNOUNCED = re.compile(
    r"(?P<opened>\\(?:text(?:bf|it|rm)?|mathrm|mbox)\s*\{)?\s*(?:the\s+)?(?:final\s+|correct\s+)?answer"
    r"\s*(?:is\s*:?(?![A-Za-z])|:)\s*(?P<closed>\}?)\s*(?=\S)",
    re.IGNORECASE,
)
"""Words that only say that the answer follows."""
_COMMANDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:[dtcs]|nice)frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\binom\s*(\d)\s*(\d)(?!\d)", r"\\binom{\1}{\2}"),
        (r"\\(?:left|right|middle)\s*\.", " "),
        (
            r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mathopen|mathclose)(?![A-Za-z])",
            "",
        ),
        (r"\\(?:lbrace|\{)", r"\\{"),
        (r"\\(?:rbrace|\})", r"\\}"),
        (r"\\(?:l|r)vert(?![A-Za-z])", "|"),
        (r"\\ne(?![A-Za-z])|\\not\s*=", r"\\neq "),
        (r"\\(?:le|leqslant|leqq)(?![A-Za-z])|<=", r"\\leq "),
        (r"\\(?:ge|geqslant|geqq)(?![A-Za-z])|>=", r"\\geq "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:dots|cdots|dotsc|dotsb|dotsm|ldots|hdots)(?![A-Za-z])|\.\.\.", r"\\ldots "),
        (r"\\(?:varnothing|empty)(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:approxeq|simeq|thickapprox|doteq|sim|thicksim)(?![A-Za-z])", r"\\approx "),
        (r"\\(?:backslash|smallsetminus)(?![A-Za-z])", r"\\setminus "),
        (r"\\(?:textcolor|color)\s*\{[^{}]*\}", ""),
        (r"\\(?:underline|uline)\s*(?:\{([^{}]*)\}|(?=\{))", r"\1"),
        (r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}\\]*)\}", r"\1\\text{ \2}"),
        (r"\\ang\s*\{([^{};]*)\}", r"\1\\degree "),
        (r"\\num\s*\{([^{}]*)\}", r"\1"),
        (r"\{:\}", ":"),
        (r"\\log\s*_\s*(?:e(?![A-Za-z])|\{\s*(?:e|\\mathrm\{e\})\s*\})", r"\\ln "),
        (r"\\([ij])math(?![A-Za-z])", r"\1"),
        (r"\\mathring\{i\}", "i"),
        (
            r"\\(?:hat|vec|widehat)\s*\{?\s*(?:\\(?:mathbf|boldsymbol|bm)\s*\{\s*([ijk])\s*\}|([ijk])(?![A-Za-z]))\s*\}?",
            r" \1\2 ",
        ),
        (r"per\s+cent(?![A-Za-z])", "percent"),
        (r"\\(?:lg)(?![A-Za-z])", r"\\log "),
        (r"\\(?:tg)(?![A-Za-z])", r"\\tan "),
        (r"\\mathbb\s*\{?\s*([A-Z])\s*\}?", r"\\mathbb{\1}"),
        (r"\\(?:mathrm|mathbf|mathit|boldsymbol|bm|rm|bf)\s+([A-Za-z])(?![A-Za-z])", r" \1 "),
        (r"\\%|%", r"\\%"),
        (r"\\(?:USD|textdollar)(?![A-Za-z])", r"\\$"),
    )
)
_ITALIC = re.compile(
    r"\\(?:mathit|boldsymbol|bm|mathbf|mathsf|mathnormal|symbf|pmb|vb)\s*\{([^{}]*)\}|\{\\(?:bf|it)\s+([^{}]*)\}"
)
_UPRIGHT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|textsf|texttt|textup|mathrm|mathup|mbox|hbox|operatorname\*?|unit|si|rm)\s*\{((?:[^{}]|\^\{[^{}]*\})*)\}"
    r"|\{\\rm\s+([^{}]*)\}"
)
_FUNCTION = re.compile(
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)|sinh|cosh|tanh|ln|log|exp|max|min|gcd|lcm|det|lim|sup|inf|arg"
)
_DEGREES = re.compile(
    r"\\degree(?:s)?(?![A-Za-z])|\\textdegree(?![A-Za-z])|\^\s*\{?\s*(?:\\circ(?![A-Za-z])|\\degree(?![A-Za-z])|°|\\text\{\s*[o°]\s*\}|\\text\{\\circ\})\s*\}?"
    r"|(?<=[\d}\s])\^\s*(?:o(?![A-Za-z])|\{\s*o\s*\}|0(?=\s*\\text\{\s*[CF]\s*\}))|\\text\{\s*°\s*\}"
)
_SPACES = re.compile(
    r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|\\(?:thin|med|thick|en)?space(?![A-Za-z])|~|\\hspace\*?\{[^{}]*\}"
)
_BOLD_SET = re.compile(
    r"^\s*\\mathbf\s*\{?\s*([RQZNC])\s*\}?\s*$|(?<=\\in)\s*\\mathbf\s*\{?\s*([RQZNC])\s*\}?"
)
_LONE_BACKSLASH = re.compile(r"(?<!\\)\\$")
_UPRIGHT_STOP = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\{\s?[.,;]?\s?\}$")
_MICRO = re.compile(r"\\mu\s*\\text\{\s*")
_BARE_DOLLAR = re.compile(r"(?<!\\)\$")
_GROUPED = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:\{,\}|,\s*\\!\s*|\\,|\\!|'|\s)\d{3})+)(?![\d])", re.ASCII)
_CONTINENTAL = re.compile(
    r"(?<![\d.,])(?P<whole>\d{1,3}(?:(?:\.\d{3}){2,}|(?:(?:\s|\\,)\d{3}){2,}(?=,)))(?:,(?P<rest>\d+))?(?![\d,]|\.\d)",
    re.ASCII,
)
"""At least two groups of three behind dots or spaces: no other number is written so."""
_DOTTED = re.compile(r"(\.\d*)\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", re.ASCII)
_REVERSED = re.compile(r"(?P<low>[\[\](])(?P<inside>[^\[\]()]*[,;][^\[\]()]*)(?P<high>[\[\])])")
_COMMA_IN_WORDS = re.compile(r"\\text\{\s*([,;])\s*\}")
_UNIT_AND = re.compile(r"(\d\s*)\\text\{([^{},]*[^{}\s,]),?\s+(and|or)\s*\}")
_COMMAS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\S|\.\d+,)", re.ASCII)
_REPEATING = re.compile(
    r"(?<![\w.])(\d*)\.(\d*)(?:\\(?:overline|bar|dot|overbar)\s*(?:\{\s*(\d+)\s*\}|(\d))|\((\d+)\))(?!\d)",
    re.ASCII,
)
_CONTINUED = re.compile(r"(?<![\w.])(\d+)\.(\d*?)(\d+?)\3+\s*\\ldots\s*$", re.ASCII)
_E_NOTATION = re.compile(
    r"(?<![\w.}])(\d+(?:\.\d*)?|\.\d+)(?:[eE]|\\text\{\s*[eE]\s*\})(?:\{\s*)?([+-]?\d{1,9})(?:\s*\})?(?![\d.^_])",
    re.ASCII,
)
_TIMES_TEN = re.compile(
    r"(?<=\d)\s*(?:[x*]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*(?:\(([+-]?\d+)\)|([+-]?\d{2,}|[+-]\d))(?![\d.])",
    re.ASCII,
)
_X_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", re.ASCII)


_INFINITY = re.compile(
    r"(?:\\text\{(?P<upright>[^{}]*)infinity\s*\}|(?<![A-Za-z\\])(?<![A-Za-z]\s)(?P<bare>(?:positive|negative|plus|minus)\s+)?infinity"
    r"(?!\s*[A-Za-z]))",
    re.IGNORECASE,
)
_SIGNS_IN_WORDS = {"": "", "+": "+", "-": "-", "positive": "", "negative": "-", "plus": "+", "minus": "-"}
_INFIX = (("\\over", "\\frac"), ("\\choose", "\\binom"))
"""TeX's commands that stand between their two arguments, as wide as the group that they are in."""
_MOST_INFIX = 8


def _prefixed(text: str, infix: str, command: str) -> str:
    """`{a+b \\over c}` as `\\frac{a+b}{c}`, from the left; an unbalanced group stays as it is."""
    for _ in range(_MOST_INFIX):
        found = re.search(re.escape(infix) + r"(?![A-Za-z])", text)
        if found is None:
            break
        start, end = _group_around(text, found.start(), found.end())
        if start is None or end is None:
            break
        above, below = text[start : found.start()].strip(), text[found.end() : end].strip()
        made = f"{command}{{{above}}}{{{below}}}"
        braced = start > 0
        if not braced and re.search(r"[=<>,;]|\\\\(?:leq|geq|le|ge|text|quad)", text):
            break  # TeX would take in all of it, and the writer did not mean that
        text = (text[: start - 1] + made + text[end + 1 :]) if braced else made
    return text


def _group_around(text: str, first: int, last: int) -> tuple[int | None, int | None]:
    """Where the group that holds `first:last` begins and ends inside its braces; the whole text outside of any."""
    start, end, depth = 0, len(text), 0
    for at in range(first - 1, -1, -1):
        depth += (text[at] == "}") - (text[at] == "{")
        if depth < 0:
            start = at + 1
            break
    else:
        if depth:
            return None, None
    depth = 0
    for at in range(last, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth < 0:
            end = at
            break
    else:
        if depth or start > 0:
            return None, None
    return (start, end) if (start > 0) == (end < len(text)) else (None, None)


@lru_cache(maxsize=4096)
def spelled(text: str, *, listed: bool = False) -> str:
    """The same answer in one spelling of LaTeX; upright and other text stands in `\\text{…}`, a degree is `°`.

    Args:
        text: an answer.
        listed: whether commas separate entries even where they could group thousands, as in 376,625.
    """
    text = _ONE_SIGN_FRACTION.sub(_vulgar, unwrapped(text))
    text = _RAISED.sub(lambda m: f"^{{{_plain_digits(m[0])}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{_plain_digits(m[0])}}}", text)
    text = _ROOT_SIGN.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text)
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = text.replace("\\$", "\x00")
    if text.count("$") == 1 and re.match(r"\s*-?\s*\$\s*[\d.]", text):
        text = text.replace("$", "\x00")
    text = _BARE_DOLLAR.sub("", text).replace("\x00", "\\$")
    for before, command in _INFIX:
        text = _prefixed(text, before, command)
    text = _BOLD_SET.sub(lambda m: f"\\mathbb{{{m[1] or m[2]}}}", text)
    for pattern, replacement in _COMMANDS:
        text = pattern.sub(replacement, text)
    text = _repeatedly(_UPRIGHT, _upright, _repeatedly(_ITALIC, _italic, text))
    text = _INFINITY.sub(_infinity, text)
    text = _MICRO.sub(r"\\text{μ", _DEGREES.sub(DEGREE, text))
    text = _REVERSED.sub(_parenthesised, _COMMA_IN_WORDS.sub(r"\1 ", text))
    text = _UNIT_AND.sub(r"\1\\text{\2}\\text{ \3 }", text)
    text = _CONTINENTAL.sub(_english, text)
    text = _GROUPED.sub(_joined, text)
    text = _SPACES.sub(" ", text).replace("\\!", "")
    text = _REPEATING.sub(_repeating, _DOTTED.sub(r"\1\\overline{\2\3\4}", text))
    text = _CONTINUED.sub(_continued, text)
    text = _X_TIMES_TEN.sub(r"\\times ", text)
    text = _TIMES_TEN.sub(lambda m: f"\\times 10^{{{m[1] or m[2]}}}", text)
    text = _E_NOTATION.sub(_scientific, text if listed else _separated(text))
    return re.sub(r"\s+", " ", text).strip()


def unwrapped(text: str) -> str:
    """An answer without mathematics mode or bold type around it, `the answer is` and a last full stop."""
    text = text.strip()
    if (announced := _ANNOUNCED.match(text)) and bool(announced["closed"]) <= bool(announced["opened"]):
        text = ("" if announced["closed"] else announced["opened"] or "") + text[announced.end() :]
    for _ in range(3):
        for opening, closing in WRAPPERS:
            if (
                text.startswith(opening)
                and text.endswith(closing)
                and len(text) >= len(opening) + len(closing)
            ):
                inside = text[len(opening) : len(text) - len(closing)]
                if opening not in inside and closing not in inside:
                    text = inside.strip()
        text = _UPRIGHT_STOP.sub("", _LONE_BACKSLASH.sub("", text))
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
    return text


def _repeatedly(pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str) -> str:
    """A replacement from the inside out; nesting beyond a few levels stays."""
    for _ in range(4):
        text, count = pattern.subn(replace, text)
        if not count:
            break
    return text.replace("\x01", "{").replace("\x02", "}")


def _italic(match: re.Match[str]) -> str:
    inside = match[1] if match[1] is not None else match[2]
    return (
        f" {inside} "
        if re.fullmatch(r"\s*(?:\\?[A-Za-z]|[^A-Za-z]*)\s*", inside)
        else f"\\text\x01{inside}\x02"
    )


def _upright(match: re.Match[str]) -> str:
    inside = match[1] if match[1] is not None else match[2]
    inside = re.sub(r"\\text\x01([^\x02]*)\x02", r"\1", inside)
    name, rest = inside.strip(), match.string[match.end() :].lstrip()
    # Seconds and minutes are written like functions.
    below = match.string[: match.start()].rstrip("{ ").endswith("_")
    if (
        not below
        and _FUNCTION.fullmatch(name)
        and (name not in ("sec", "min") or re.match(r"[({\\A-Za-z^]", rest))
    ):
        return f"\\{inside.strip()} "
    if re.fullmatch(r"[\d.,+\-/\s]*\d[\d.,+\-/\s]*", inside):
        return inside
    return f"\\text\x01{inside}\x02"


def _plain_digits(text: str) -> str:
    """Raised and lowered digits and signs as they stand on the line."""
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _infinity(match: re.Match[str]) -> str:
    """Infinity in words; `diverges to infinity` says something else."""
    sign = _SIGNS_IN_WORDS.get((match["upright"] or match["bare"] or "").strip().lower())
    return match[0] if sign is None else f"{sign}\\infty "


def _vulgar(match: re.Match[str]) -> str:
    """A fraction of one sign, `⅜`."""
    above, below = unicodedata.normalize("NFKC", match[0]).split("\N{FRACTION SLASH}")
    return f"\\frac{{{above}}}{{{below}}}"


def _parenthesised(match: re.Match[str]) -> str:
    """An open end of an interval as a parenthesis: `]0,1[` as (0,1)."""
    low, high = match["low"].replace("]", "("), match["high"].replace("[", ")")
    return f"{low}{match['inside']}{high}"


def _english(match: re.Match[str]) -> str:
    """A number without its groups, and with a decimal point."""
    return re.sub(r"[^\d]", "", match["whole"]) + (f".{match['rest']}" if match["rest"] else "")


def _joined(match: re.Match[str]) -> str:
    return match[1] + "".join(re.findall(r"\d{3}", match[2]))


def _separated(text: str) -> str:
    """Thousands without their commas, where commas between brackets do not list numbers of three digits."""

    def joined(match: re.Match[str]) -> str:
        groups = match[0].split(",")
        before, after = text[: match.start()].rstrip(), text[match.end() :].lstrip()
        enclosed = before.endswith(("(", "[", "\\{", ",")) and after.startswith((")", "]", "\\}", ","))
        listed = before.endswith(("(", "[", "\\{")) or after.startswith((")", "]", "\\}"))
        if (enclosed or listed) and not any(group.startswith("0") for group in groups[1:]):
            return match[0]
        return "".join(groups)

    return _COMMAS.sub(joined, text)


def _fraction(value: Fraction) -> str:
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, cycle = match[1] or "0", match[2], match[3] or match[4] or match[5]
    scale = 10 ** len(fixed)
    value = Fraction(int(whole + fixed), scale) + Fraction(int(cycle), scale * (10 ** len(cycle) - 1))
    return _fraction(value)


def _continued(match: re.Match[str]) -> str:
    whole, fixed, cycle = match[1], match[2], match[3]
    digits = match[0].split(".", 1)[1].split("\\")[0].strip()
    if len(digits) - len(fixed) < max(3, 2 * len(cycle)):
        return match[0]
    scale = 10 ** len(fixed)
    return _fraction(
        Fraction(int(whole + fixed), scale) + Fraction(int(cycle), scale * (10 ** len(cycle) - 1))
    )


def _scientific(match: re.Match[str]) -> str:
    exponent = int(match[2])
    a_sum = re.fullmatch(r"\+\d", match[2]) and "." not in match[1]  # 2e+3 is 2e + 3
    if a_sum or abs(exponent) > MAX_EXPONENT:
        return match[0]
    return f"({match[1]} \\cdot 10^{{{exponent}}})"
