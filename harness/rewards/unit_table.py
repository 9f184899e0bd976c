"""Units of measurement, factors in words, and the words that no unit holds."""

from __future__ import annotations

from fractions import Fraction

from harness.rewards.spelling import DEGREE

PERCENT = "percent"

Dimensions = dict[str, int]

PREFIXES = {
    "n": -9,
    "μ": -6,
    "u": -6,
    "m": -3,
    "c": -2,
    "d": -1,
    "k": 3,
    "M": 6,
    "G": 9,
    "T": 12,
    "p": -12,
    "f": -15,
}
LONG_PREFIXES = {
    "nano": -9,
    "micro": -6,
    "milli": -3,
    "centi": -2,
    "deci": -1,
    "kilo": 3,
    "mega": 6,
    "giga": 9,
    "tera": 12,
    "pico": -12,
    "femto": -15,
    "hecto": 2,
}

_ENERGY = {"kg": 1, "m": 2, "s": -2}
_VOLT = {"kg": 1, "m": 2, "s": -3, "A": -1}
METRIC: dict[str, tuple[Fraction, Dimensions, tuple[str, ...]]] = {
    "m": (Fraction(1), {"m": 1}, ("meter", "metre")),
    "g": (Fraction(1, 1000), {"kg": 1}, ("gram", "gramme")),
    "s": (Fraction(1), {"s": 1}, ("second",)),
    "A": (Fraction(1), {"A": 1}, ("ampere", "amp")),
    "K": (Fraction(1), {"K": 1}, ("kelvin",)),
    "mol": (Fraction(1), {"mol": 1}, ("mole",)),
    "M": (Fraction(1000), {"mol": 1, "m": -3}, ("molar",)),
    "N": (Fraction(1), {"kg": 1, "m": 1, "s": -2}, ("newton",)),
    "J": (Fraction(1), _ENERGY, ("joule",)),
    "W": (Fraction(1), {"kg": 1, "m": 2, "s": -3}, ("watt",)),
    "Pa": (Fraction(1), {"kg": 1, "m": -1, "s": -2}, ("pascal",)),
    "Hz": (Fraction(1), {"s": -1}, ("hertz",)),
    "C": (Fraction(1), {"A": 1, "s": 1}, ("coulomb",)),
    "V": (Fraction(1), _VOLT, ("volt",)),
    "F": (Fraction(1), {"kg": -1, "m": -2, "s": 4, "A": 2}, ("farad",)),
    "Ω": (Fraction(1), {"kg": 1, "m": 2, "s": -3, "A": -2}, ("ohm",)),
    "T": (Fraction(1), {"kg": 1, "s": -2, "A": -1}, ("tesla",)),
    "Wb": (Fraction(1), {"kg": 1, "m": 2, "s": -2, "A": -1}, ("weber",)),
    "H": (Fraction(1), {"kg": 1, "m": 2, "s": -2, "A": -2}, ("henry",)),
    "L": (Fraction(1, 1000), {"m": 3}, ("liter", "litre")),
    "l": (Fraction(1, 1000), {"m": 3}, ()),
    "eV": (Fraction("1.602176634e-19"), _ENERGY, ("electronvolt",)),
    "pc": (Fraction("3.0856775814913673e16"), {"m": 1}, ("parsec",)),
    "bit": (Fraction(1), {"bit": 1}, ()),
    "B": (Fraction(8), {"bit": 1}, ("byte",)),
    "cal": (Fraction("4.184"), _ENERGY, ("calorie",)),
    "bar": (Fraction(100000), {"kg": 1, "m": -1, "s": -2}, ()),
}
"""Size in base units, dimensions and names of the units that take prefixes."""

_FOOT = Fraction("0.3048")
_POUND = Fraction("0.45359237")
PLAIN: dict[str, tuple[Fraction, Dimensions]] = {
    **dict.fromkeys(("min", "mins", "minute"), (Fraction(60), {"s": 1})),
    **dict.fromkeys(("h", "hr", "hrs", "hour"), (Fraction(3600), {"s": 1})),
    **dict.fromkeys(("sec", "secs"), (Fraction(1), {"s": 1})),
    **dict.fromkeys(("day",), (Fraction(86400), {"s": 1})),
    **dict.fromkeys(("wk", "week"), (Fraction(7 * 86400), {"s": 1})),
    **dict.fromkeys(("mo", "month"), (Fraction(1), {"month": 1})),
    **dict.fromkeys(("yr", "yrs", "year"), (Fraction(12), {"month": 1})),
    **dict.fromkeys(("decade",), (Fraction(120), {"month": 1})),
    **dict.fromkeys(("in", "inch", "inches"), (_FOOT / 12, {"m": 1})),
    **dict.fromkeys(("ft", "foot", "feet"), (_FOOT, {"m": 1})),
    **dict.fromkeys(("yd", "yds", "yard"), (_FOOT * 3, {"m": 1})),
    **dict.fromkeys(("mi", "mile"), (_FOOT * 5280, {"m": 1})),
    **dict.fromkeys(("lb", "lbs", "pound"), (_POUND, {"kg": 1})),
    **dict.fromkeys(("oz", "ounce"), (_POUND / 16, {"kg": 1})),
    **dict.fromkeys(("ton", "tonne"), (Fraction(1000), {"kg": 1})),
    **dict.fromkeys(("gal", "gallon"), (Fraction("0.003785411784"), {"m": 3})),
    **dict.fromkeys(("qt", "quart"), (Fraction("0.000946352946"), {"m": 3})),
    **dict.fromkeys(("acre",), (Fraction("4046.8564224"), {"m": 2})),
    **dict.fromkeys(("ha", "hectare"), (Fraction(10000), {"m": 2})),
    **dict.fromkeys(("mph",), (_FOOT * 5280 / 3600, {"m": 1, "s": -1})),
    **dict.fromkeys(("kph", "kmh", "kmph"), (Fraction(1000, 3600), {"m": 1, "s": -1})),
    **dict.fromkeys(("cc",), (Fraction(1, 10**6), {"m": 3})),
    **dict.fromkeys(("atm", "atmosphere"), (Fraction(101325), {"kg": 1, "m": -1, "s": -2})),
    **dict.fromkeys(("erg",), (Fraction(1, 10**7), _ENERGY)),
    **dict.fromkeys(("dyn", "dyne"), (Fraction(1, 10**5), {"kg": 1, "m": 1, "s": -2})),
    **dict.fromkeys(("Å", "angstrom"), (Fraction(1, 10**10), {"m": 1})),
    **dict.fromkeys(("amu", "u", "dalton"), (Fraction(1), {"u": 1})),
    **dict.fromkeys(("rad", "radian"), (Fraction(1), {"radian": 1})),
    **dict.fromkeys((DEGREE, "degree", "degs", "deg"), (Fraction(1), {"degree": 1})),
    **dict.fromkeys(("°C", "celsius", "degC"), (Fraction(1), {"celsius": 1})),
    **dict.fromkeys(("°F", "fahrenheit", "degF"), (Fraction(1), {"fahrenheit": 1})),
    **dict.fromkeys(("\\$", "dollar", "usd", "buck"), (Fraction(1), {"dollar": 1})),
    **dict.fromkeys(("cent", "¢"), (Fraction(1, 100), {"dollar": 1})),
    **dict.fromkeys(("€", "euro", "eur"), (Fraction(1), {"euro": 1})),
    **dict.fromkeys(("£", "gbp"), (Fraction(1), {"sterling": 1})),
    **dict.fromkeys(("₹", "rupee", "rs", "inr"), (Fraction(1), {"rupee": 1})),
    **dict.fromkeys(("¥", "yen", "yuan"), (Fraction(1), {"yen": 1})),
    **dict.fromkeys(("unit", "units"), (Fraction(1), {})),
    **dict.fromkeys(("\\%", "percent", "percentage", "pct", "pc."), (Fraction(1), {PERCENT: 1})),
}
FACTORS = {
    **{
        "hundred": 10**2,
        "thousand": 10**3,
        "million": 10**6,
        "billion": 10**9,
        "trillion": 10**12,
        "dozen": 12,
    },
    **{"gross": 144, "mn": 10**6, "lakh": 10**5, "crore": 10**7, "bn": 10**9},
}
"""Words that multiply the number before them."""
QUALIFIERS = frozenset(
    {
        *("a", "about", "above", "an", "and", "approximately", "are", "at", "base", "bc", "bce", "be"),
        *("below", "between", "both", "but", "choose", "cos", "cubed", "debt", "deficit", "do", "does"),
        *("double", "eight", "either", "exactly", "except", "exp", "factorial", "false", "fewer", "fifth"),
        *("five", "fold", "for", "four", "fourth", "from", "gcd", "gon"),
        *("gonal", "greater", "half", "halves", "hundredth", "if"),
        *("infinity", "is", "larger", "lcm", "least", "left", "less", "ln", "log", "loss", "max"),
        *("maximum", "millionth", "min", "minimum", "minus", "mod", "modulo", "more", "most", "negative"),
        *("neither", "nine", "no", "nor", "not", "of", "one", "only", "onwards", "or", "out", "over", "pi"),
        *("plus", "point", "positive", "quarter", "remainder", "roughly"),
        *("seven", "short", "sided", "sin", "six"),
        *("smaller", "sq", "squared", "tan", "ten", "tenth", "than", "third", "thousandth", "three"),
        *("through", "times", "to", "triple", "true", "twenty", "twice", "two", "under", "until", "up"),
        *("was", "when", "where", "within", "yes"),
    }
)
"""Words that change what the number before or after them says: no unit holds one of them."""
NAMED: dict[str, tuple[Fraction, Dimensions]] = {
    prefix + name: (size * Fraction(10) ** power, dimensions)
    for size, dimensions, names in METRIC.values()
    for name in names
    for prefix, power in {"": 0, **LONG_PREFIXES}.items()
}
"""Size and dimensions by whole name, with prefix: `kilometer`."""
