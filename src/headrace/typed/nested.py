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
_NOT_CANONICAL = rf"[\[:,](?:-0[,\]}}]|-?(?:[0-9.]+[eE]|[0-9]+\.[0-9]*0[,\]}}]|[0-9]{{{MAX_NUMBER_DIGITS + 1}}}))"
_WHOLE = r"([\[:,]-?[0-9]+)\.0\b"
"""A whole number that went through a double: the only zero at a fraction's end that DuckDB writes."""
_FRACTION = r"[\[:,]-?[0-9]+\."
_LONG = r"[\[:,\s]-?(?:[0-9]{16}|[0-9.]{17})"
"""A number of more digits than a double gives back, as `headrace.typed.columns` explains; looked for in the line as it was."""

_ZERO = r"[\[:,]-?0\.0\b"
"""What every number is that is too small for a double."""

_STARTS_LIKE_A_NAMES_END = r'[\[{,:]":'
_NAMES = r'"([^"]*)":'


def shape(shapes: Sequence[Shape], text: str) -> str:
    """Whether it is an array or an object, as the column wants."""
    return f"left({text}, 1) IN ({', '.join(_OPEN[known] for known in shapes)})"


def value(text: str) -> str:
    """DuckDB's text with whole numbers as they are written here."""
    return f"CASE WHEN contains({text}, '.0') THEN regexp_replace({text}, '{_WHOLE}', '\\1', 'g') ELSE {text} END"


def proof(text: str, typed: str) -> str:
    """Whether *typed*, the `value` of DuckDB's *text*, is the canonical one, as a condition on one line."""
    written = f"{typed}::VARCHAR"
    numbers = (
        f"NOT regexp_matches({written}, '{_NOT_CANONICAL}') AND"
        f" CASE WHEN regexp_matches({text}, '{_FRACTION}') THEN NOT regexp_matches(line, '{_LONG}') ELSE true END"
        f" AND CASE WHEN regexp_matches({text}, '{_ZERO}') THEN NOT contains(line, 'e-') AND NOT contains(line, 'E-')"
        " ELSE true END"
    )
    # what was mended inside a text was no number
    mended = (
        rf"CASE WHEN NOT contains({text}, '.0') OR {text} = {written} THEN true WHEN contains({text}, '\') THEN false"
        f" ELSE {_wholes(text)} = {_wholes(_without_texts(text))} END"
    )
    return rf"{numbers} AND NOT contains({text}, '\u') AND {mended} AND {_no_name_repeats(text)}"


def _wholes(text: str) -> str:
    return f"len(regexp_extract_all({text}, '{_WHOLE}'))"


def _without_texts(text: str) -> str:
    return f"""regexp_replace({text}, '"[^"]*"', '', 'g')"""


def _no_name_repeats(text: str) -> str:
    """One object that holds no other, or an array of such: their names are compared. Else each name is there once in all."""
    members = f"from_json({text}, '[\"JSON\"]')"
    objects = f"len(list_filter({members}, lambda member: left(member::VARCHAR, 1) = '{{'))"
    names = f"list_transform({members}, lambda member: json_keys(member))"
    each = f"list_bool_and(list_transform({names}, lambda known: coalesce(len(known) = list_unique(known), true)))"
    braces = f"length({text}) - length(replace({text}, '{{', ''))"
    return (
        rf"CASE WHEN NOT contains({text}, '{{') THEN true"
        f" WHEN left({text}, 1) = '{{' AND NOT contains(substring({text}, 2), '{{')"
        f" THEN len(json_keys({text})) = list_unique(json_keys({text}))"
        f" WHEN left({text}, 1) = '[' AND {braces} = {objects} THEN {each}"
        rf" WHEN contains({text}, '\') OR regexp_matches({text}, '{_STARTS_LIKE_A_NAMES_END}') THEN false"
        f" ELSE {_different(text)} END"
    )


def _different(text: str) -> str:
    names = f"regexp_extract_all({text}, '{_NAMES}', 1)"
    return f"len({names}) = list_unique({names})"
