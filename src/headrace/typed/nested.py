r"""
What proves that DuckDB's text of a nested value is the one of `headrace.json_text`.

DuckDB writes it anew from what it parsed: compact, names in their order, with the fewest escapes. What may still differ is a
number that went through a double, a control character (``\u001F``), and a name that repeats, which DuckDB keeps.

In such a text a number stands behind ``[``, ``:`` or ``,``, and a text without a backslash begins and ends with its quotes. What
looks like a number or a name inside a text is taken for one: such a value only takes the careful way.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.columns import Shape
from headrace.json_text import MAX_NUMBER_DIGITS

_OPEN = {"array": "'['", "object": "'{'"}
_NOT_CANONICAL = rf"[\[:,]-?(?:[0-9.]+[eE]|[0-9]+\.[0-9]*0[,\]}}]|[0-9]{{{MAX_NUMBER_DIGITS + 1}}})"
_FRACTION = r"[\[:,]-?[0-9]+\."
_LONG = r"[\[:,\s]-?(?:[0-9]{16}|[0-9.]{17})"
"""A number of more digits than a double gives back, as `headrace.typed.columns` explains; looked for in the line as it was."""

_STARTS_LIKE_A_NAMES_END = r'[\[{,:]":'
_NAMES = r'"([^"]*)":'
_NESTED = r"\{[^}]*\{"


def shape(shapes: Sequence[Shape], text: str) -> str:
    """Whether it is an array or an object, as the column wants."""
    return f"left({text}, 1) IN ({', '.join(_OPEN[known] for known in shapes)})"


def proof(text: str) -> str:
    """Whether DuckDB's text is the canonical one, as a condition on one line."""
    numbers = (
        f"NOT regexp_matches({text}, '{_NOT_CANONICAL}') AND"
        f" CASE WHEN regexp_matches({text}, '{_FRACTION}') THEN NOT regexp_matches(line, '{_LONG}') ELSE true END"
    )
    return rf"{numbers} AND NOT contains({text}, '\u') AND {_no_name_repeats(text)}"


def _no_name_repeats(text: str) -> str:
    """Each name is there once in the whole text; or objects hold no others, and each is there once in its own."""
    without_texts = f"""regexp_replace({text}, '"[^"]*"', '', 'g')"""
    flat = f"NOT regexp_matches({without_texts}, '{_NESTED}') AND {_braces(text)} = {_braces(without_texts)}"
    each = f"list_bool_and(list_transform(string_split({text}, '{{'), lambda part: {_different('part')}))"
    return (
        rf"CASE WHEN NOT contains({text}, '{{') THEN true"
        rf" WHEN contains({text}, '\') OR regexp_matches({text}, '{_STARTS_LIKE_A_NAMES_END}') THEN false"
        f" WHEN {_different(text)} THEN true ELSE {flat} AND {each} END"
    )


def _different(text: str) -> str:
    names = f"regexp_extract_all({text}, '{_NAMES}', 1)"
    return f"len({names}) = list_unique({names})"


def _braces(text: str) -> str:
    return f"length({text}) - length(replace({text}, '{{', ''))"
