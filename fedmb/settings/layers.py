"""Settings assembled from defaults, a TOML file, the environment and the command line, in this order.

The models live beside their owners and derive from `fedmb.section.Section`; here are only the layers. A later layer
replaces single keys of an earlier one, and every value remembers where it came from, so that an error can name the
place. Variables whose names start with `FEDMB_` belong to settings: `FEDMB_TRAINING__STEPS=5` sets `training.steps`.
"""

from __future__ import annotations

import enum
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, time
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

from pydantic import ValidationError

from fedmb.errors import SettingsError
from fedmb.section import Section
from fedmb.settings.complaint import Origins, settings_error

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "FEDMB_"

M = TypeVar("M", bound=Section)
Table: TypeAlias = dict[str, Any]  # what a TOML table may hold, not yet validated


def load(
    model: type[M],
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    explicit: Mapping[str, object] | None = None,
) -> M:
    """Settings of `model`: default < TOML file < environment < overrides < explicit.

    Args:
        model: the outermost section.
        file: a TOML file.
        overrides: `a.b=value`, the value written in TOML; a bare word is a string.
        environ: process environment; `FEDMB_A__B` sets `a.b`, its value is read like an override's.
        explicit: dotted key to value, for options with a name of their own; None stands for "not given".

    Raises:
        SettingsError: a key is unknown or a value breaks a rule; one line for each, the first one's key in `key`.
    """
    given: Table = {}
    origins: Origins = {}
    for key, value, origin in _layers(file, overrides, environ or {}, explicit or {}):
        _put(given, key, value)
        origins[key] = origin
    complete = _over_default(model.model_construct(), given) if given else {}
    try:
        # Strict JSON: "5" is no number and true is no 1, yet a path, an enum or a tuple may be written as TOML can.
        return model.model_validate_json(json.dumps(complete, default=_plain), strict=True)
    except ValidationError as error:
        raise settings_error(model, error, given, origins) from None


def _layers(
    file: Path | None, overrides: Sequence[str], environ: Mapping[str, str], explicit: Mapping[str, object]
) -> Iterator[tuple[tuple[str, ...], object, str]]:
    """(key, value, origin) of every value given, weakest layer first."""
    if file is not None:
        yield from _leaves(_read(file), (), str(file))
    for name, text in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            yield tuple(key), _value(text), name
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted.strip():
            raise SettingsError(f"an override is written a.b=value, got {override!r}; put = between key and value")
        yield tuple(dotted.strip().split(".")), _value(text.strip()), f"--set {override}"
    for dotted, value in explicit.items():
        if value is not None:
            yield tuple(dotted.split(".")), value, f"the option for {dotted}"


def _read(file: Path) -> Table:
    """The file's outermost table."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {file} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"settings file {file} must be UTF-8, got {error.reason}; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"line (\d+)", str(error))
        line = place[1] if place else "the last"
        reason = str(error).partition(" (at ")[0]
        raise SettingsError(
            f"settings file {file}, line {line}, must be TOML: {reason}; write key = value and quote strings"
        ) from error


def _value(text: str) -> object:
    """`text` read as a TOML value; as a string when it is none."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _leaves(table: Table, at: tuple[str, ...], origin: str) -> Iterator[tuple[tuple[str, ...], object, str]]:
    """Every value below `table`; an empty table is a value too."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*at, key), origin)
        else:
            yield (*at, key), value, origin


def _put(table: Table, key: tuple[str, ...], value: object) -> None:
    """Set `key` in nested tables; what stands in the way and is no table is replaced."""
    for part in key[:-1]:
        inner = table.get(part)
        if not isinstance(inner, dict):
            inner = table[part] = {}
        table = inner
    table[key[-1]] = value


def _over_default(default: Section, given: Table) -> Table:
    """`given` laid over the sections that are fields' defaults.

    Pydantic alone would build a half-given section from its class and lose what its owner chose as default.
    A section of another kind (another value of a Literal that has one only) replaces the default whole.
    """
    complete = dict(given)
    for name in type(default).model_fields:
        value = getattr(default, name, None)
        inner = given.get(name)
        if isinstance(value, Section) and isinstance(inner, dict) and _same_kind(value, inner):
            complete[name] = {**_shallow(value), **_over_default(value, inner)}
    return complete


def _same_kind(default: Section, given: Table) -> bool:
    """True unless `given` names another member of a union than `default` is."""
    fields = type(default).model_fields
    return all(given.get(n, getattr(default, n)) == getattr(default, n) for n in fields if _is_kind(fields[n]))


def _is_kind(field: FieldInfo) -> bool:
    """True for a field that tells members of a union apart."""
    # A choice among several values is an ordinary setting; a Literal of one value names the member of a union.
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _shallow(section: Section) -> Table:
    """The section's fields, sections below it as tables; None is left out."""
    return section.model_dump(exclude_none=True)


def _plain(value: object) -> object:
    """The JSON value for one that only Python or TOML knows."""
    match value:
        case enum.Enum():
            return value.value
        case PurePath():
            return str(value)
        case date() | time():
            return value.isoformat()
        case AbstractSet():
            return sorted(value)
        case Section():
            return _shallow(value)
    raise SettingsError(f"a setting holds what TOML can hold, got {value!r} of type {type(value).__name__}")
