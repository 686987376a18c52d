"""What is wrong with settings, said in the words of the person who wrote them.

Pydantic names classes and types; here its findings become sentences with the dotted key, the rule, the value, the
place it came from and the nearest known key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, get_origin

from fedmb.errors import SettingsError
from fedmb.section import Section

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

Origins: TypeAlias = dict[tuple[str, ...], str]
"""Where the value of each given key came from: a file, a variable, an option."""


def settings_error(
    model: type[Section], error: ValidationError, given: Mapping[str, Any], origins: Origins
) -> SettingsError:
    """One sentence for each finding, a line each, in the order of the model's fields."""
    found = [_sentence(model, detail, given, origins) for detail in error.errors(include_url=False)]
    keys, sentences = zip(*dict.fromkeys(found), strict=True)
    return SettingsError("\n".join(sentences), key=keys[0] or None)


def _sentence(
    model: type[Section], detail: ErrorDetails, given: Mapping[str, Any], origins: Origins
) -> tuple[str, str]:
    """(dotted key, sentence) of one finding."""
    key = _key(detail, given)
    dotted = ".".join(key)
    origin = _origin(key, origins)
    section = f"section [{'.'.join(key[:-1])}]" if key[:-1] else "the top level"
    if detail["type"] == "extra_forbidden":
        known = sorted(_known_names(model, key[:-1], given))
        near = difflib.get_close_matches(key[-1], known, n=1, cutoff=0.5)
        way_out = f"did you mean {'.'.join((*key[:-1], near[0]))}?" if near else f"known there: {', '.join(known)}"
        return dotted, f"{section} has no setting {dotted}, got it from {origin}; {way_out}"
    if detail["type"] == "missing":
        return dotted, f"{dotted} must be given, got nothing; add {key[-1]} = ... to {section}"
    if detail["type"] == "value_error":
        rule = str(detail["ctx"]["error"])
        return dotted, f"{dotted or 'settings'}: {rule}"
    rule = detail["msg"].replace("Input should", "must", 1).replace("be an object", "be a table")
    rule = rule if rule.startswith("must") else f"breaks a rule, {rule[0].lower()}{rule[1:]}"
    return dotted, f"{dotted} {rule}, got {detail['input']!r}; change it in {origin}"


def _key(detail: ErrorDetails, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The finding's place as the user's key: pydantic's own marks (a union's member) are left out."""
    key: list[str] = []
    here: Any = given
    for number, part in enumerate(detail["loc"], start=1):
        if part in (here if isinstance(here, Mapping) else range(len(here)) if isinstance(here, list) else ()):
            here = here[part]
            key.append(str(part))
        elif number == len(detail["loc"]) and detail["type"] == "missing":
            key.append(str(part))
    return tuple(key)


def _origin(key: tuple[str, ...], origins: Origins) -> str:
    """Where the value of `key`, of a table around it or of its first part came from."""
    for length in range(len(key), 0, -1):
        if key[:length] in origins:
            return origins[key[:length]]
    return next((origin for known, origin in origins.items() if known[: len(key)] == key), "its default")


def _known_names(model: type[Section], key: tuple[str, ...], given: Mapping[str, Any]) -> set[str]:
    """Names that the table at `key` may hold."""
    classes = {model}
    here: Any = given
    for part in key:
        inner = {c for owner in classes for c in _sections_in(_annotation(owner, part))}
        # Below a list's number or a mapping's name the candidates stay those of the list or mapping.
        classes = inner or classes
        here = here[int(part)] if isinstance(here, list) else here[part]
    fitting = {c for c in classes if _fits(c, here)} or classes
    return {name for c in fitting for name in c.model_fields}


def _annotation(owner: type[Section], name: str) -> object:
    """Type of the field `name`; None when there is no such field."""
    field = owner.model_fields.get(name)
    return field.annotation if field else None


def _sections_in(annotation: object) -> Iterator[type[Section]]:
    """Every section named anywhere in a type: in unions, lists, mappings."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)


def _fits(candidate: type[Section], given: Mapping[str, Any]) -> bool:
    """True unless a Literal field was given a value that this candidate does not take."""
    return all(
        given[name] in get_args(field.annotation)
        for name, field in candidate.model_fields.items()
        if get_origin(field.annotation) is Literal and name in given
    )
