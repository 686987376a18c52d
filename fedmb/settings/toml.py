"""Settings written as TOML, each value under its description.

The standard library reads TOML and does not write it.
"""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, time
from pathlib import PurePath
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError
from fedmb.section import Section

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(settings: Section) -> str:
    """`settings` as TOML with each field's description above it; `load` reads the same settings back.

    Equal settings give equal text. A field that is None is left out.

    Raises:
        SettingsError: a field is None and its default is not, so leaving it out would not bring it back.
    """
    return "\n".join(_table_lines(settings, ())).strip("\n") + "\n"


def key_text(*parts: str) -> str:
    """A dotted key; parts that TOML cannot hold bare are quoted."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else _string_text(part) for part in parts)


def value_text(value: object) -> str:  # noqa: PLR0911  # one return for each kind of value
    """One value in one line: string, number, boolean, date, path, enum member, sequence or mapping of them.

    A set is written sorted, so that equal values give equal text. None has no TOML form: mappings leave it out.

    Raises:
        TypeError: the value is of another type, or a sequence holds None.
    """
    match value:
        case enum.Enum():
            return value_text(value.value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)  # TOML spells inf, -inf and nan as Python does
        case str() | PurePath():
            return _string_text(str(value))
        case date() | time():
            return value.isoformat()
        case AbstractSet():
            return f"[{', '.join(sorted(map(value_text, value)))}]"
        case Mapping():
            inside = ", ".join(f"{key_text(str(k))} = {value_text(v)}" for k, v in value.items() if v is not None)
            return f"{{ {inside} }}" if inside else "{}"
        case Sequence():
            return f"[{', '.join(map(value_text, value))}]"
    raise TypeError(f"TOML holds strings, numbers, booleans, dates, lists and tables, got {value!r}")


def _string_text(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, except that TOML also escapes DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _table_lines(section: Section, at: tuple[str, ...]) -> Iterator[str]:
    """Lines of a section's own values, then of the tables below it."""
    below: list[tuple[str, object]] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if value is None:
            if field.is_required() or field.get_default(call_default_factory=True, validated_data={}) is not None:
                raise SettingsError(
                    f"{'.'.join((*at, name))} is None but defaults to something else; make None its default",
                    key=".".join((*at, name)),
                )
        elif _is_table(value):
            below.append((name, value))
        else:
            yield from _comment(field)
            yield f"{key_text(name)} = {value_text(value)}"
    for name, value in below:
        yield ""
        yield from _comment(type(section).model_fields[name])
        yield from _header_and_lines(value, (*at, name))


def _is_table(value: object) -> bool:
    """True for what is written under a header of its own: a section, or sections by name or by number."""
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(inner, Section) for inner in value.values())
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(inner, Section) for inner in value)
    return isinstance(value, Section)


def _header_and_lines(value: object, at: tuple[str, ...]) -> Iterator[str]:
    """`[header]` and the lines under it."""
    match value:
        case Section():
            yield f"[{key_text(*at)}]"
            yield from _table_lines(value, at)
        case Mapping():
            for name, inner in value.items():
                yield from _header_and_lines(inner, (*at, str(name)))
        case Sequence():
            for inner in value:
                yield f"[[{key_text(*at)}]]"
                yield from _table_lines(inner, at)


def _comment(field: FieldInfo) -> Iterator[str]:
    """The field's description as comment lines."""
    for line in (field.description or "").splitlines():
        yield f"# {line}".rstrip()
