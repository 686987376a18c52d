"""The page of all settings, docs/reference/settings.md, made from the classes that hold them: `make reference`.

    python -m fedmb.settings.reference docs/reference/settings.md

A key's description is the string under its field, its rule what the field or its refusal says, its default the one
that the command has, which may differ from that of a class that several commands share.
"""

from __future__ import annotations

import ast
import inspect
import math
import sys
import textwrap
import types
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from fedmb.errors import SettingsError
from fedmb.federation.client_settings import ClientSettings
from fedmb.federation.deployed_server import ServerSettings
from fedmb.federation.stream_feed import StreamFeed
from fedmb.federation.stream_run import StreamRun
from fedmb.ingest.codec_choice import CodecChoice
from fedmb.ingest.dead_letter_replay import DeadLetterReplay
from fedmb.ingest.kafka_connection import KafkaConnection
from fedmb.ingest.kafka_options import KEYS
from fedmb.ingest.record_limits import RecordLimits
from fedmb.ingest.schema_registry import RegistryAccess
from fedmb.replay.service_section import ReplayServe
from fedmb.section import Section
from fedmb.settings.toml import value_text
from fedmb.simulation.population import Simulation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    Type: TypeAlias = Any  # an annotation, which may be a class, a union or a Literal

COMMANDS: dict[str, type[Section]] = {
    "fedmb simulate": Simulation,
    "fedmb server": ServerSettings,
    "fedmb client": ClientSettings,
    "fedmb stream run": StreamRun,
    "fedmb stream feed": StreamFeed,
    "fedmb stream replay-dlq": DeadLetterReplay,
    "fedmb replay serve": ReplayServe,
}

_HEAD = """# Settings

Made by `make reference` from the classes that hold the settings; `tests/settings/test_reference.py` compares. Change
the string under a field, not this page.

Each command reads its settings from their defaults, a TOML file (`--config`), variables (`FEDMB_TRAINING__STEPS=5`),
single overrides (`--set training.steps=5`) and options of their own, the later ones winning. A key `a.b` stands in the
file as `b = ...` under `[a]`. `inf` is no limit. `fedmb stream replay-dlq` takes options alone: its keys are their
names, but for `start`, which is `--from`.
"""
_KAFKA = """
## Keys of a kafka: URL

`kafka://host:9092,host2:9092/topic?key=value&key=value`, where `partition=0` or `partitions=0,1` name partitions, and
all of the topic's are meant without. `settings=/etc/fedmb/kafka.toml` names a file with more of these keys; the URL's
count.
"""
_CODECS = """
## Keys for codecs

Of any stream's URL that is read: which codecs its records may have, and what a record may have at most.
"""


class Row(NamedTuple):
    """A setting, as a line of a table."""

    key: str
    default: str
    rule: str
    description: str


def page() -> str:
    """The page's text."""
    parts = [_HEAD]
    for command, model in COMMANDS.items():
        parts += [f"\n## {command}\n\n", _table(_rows(model, None, ()))]
    parts += [_KAFKA, "\n", _table(_kafka_rows()), _CODECS, "\n", _table(_codec_rows())]
    return "".join(parts)


def rule_of(annotation: Type, metadata: Iterable[object] = ()) -> str:  # noqa: PLR0911  # one return for each kind of type
    """What a value must be: its type, and the bounds that a field's metadata sets."""
    origin: Type = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Literal:
        words = [f"`{word}`" for word in arguments]
        return f"one of {', '.join(words)}" if words[1:] else words[0]
    if origin in {Union, types.UnionType}:
        kinds = [rule_of(one, metadata) for one in arguments if one is not type(None)]
        return " or ".join(kinds)
    if hasattr(annotation, "__metadata__"):  # Annotated: a bound inside a list or a union
        inner = [found for one in annotation.__metadata__ for found in (one.metadata if _is_field(one) else [one])]
        return rule_of(arguments[0], inner)
    if origin is tuple:
        least = next((one.min_length for one in metadata if isinstance(one, MinLen)), 0)
        return f"list of {rule_of(arguments[0])}" + (f", {least} or more of them" if least else "")
    if origin is dict:
        return f"table, {rule_of(arguments[0])} = {rule_of(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "table"
    bounds = [_bounds(metadata), *(f"of the form `{one.pattern}`" for one in metadata if hasattr(one, "pattern"))]
    name = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}[annotation]
    return ", ".join([name, *(bound for bound in bounds if bound)])


def main() -> None:
    """Write the page to the file that the command line names."""
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")


def _is_field(one: object) -> bool:
    return isinstance(one, FieldInfo)


def _bounds(metadata: Iterable[object]) -> str:
    """Bounds of a number in words, empty where there are none."""
    low = high = ""
    for one in metadata:
        match one:
            case Ge(ge=bound):
                low = f"{bound} or more"
            case Gt(gt=bound):
                low = f"above {bound}"
            case Le(le=bound):
                high = f"at most {bound}"
            case Lt(lt=bound) if bound == math.inf:
                high = "finite"
            case Lt(lt=bound):
                high = f"below {bound}"
            case MinLen():
                low = "not empty"
    return " and ".join(bound for bound in (low, high) if bound)


def _rows(model: type[Section], default: Section | None, at: tuple[str, ...]) -> Iterator[Row]:
    """A row for each setting of a section, those of its tables behind its own."""
    below: list[tuple[str, FieldInfo, type[Section], Section | None]] = []
    for name, field in model.model_fields.items():
        value = getattr(default, name) if default is not None else _default(field)
        inner = next((one for one in (field.annotation, *get_args(field.annotation)) if _is_section(one)), None)
        if inner is not None:
            below.append((name, field, inner, value))
        else:
            rule = rule_of(field.annotation, field.metadata)
            yield Row(".".join((*at, name)), _shown(field, value), rule, field.description or "")
    for name, field, inner, value in below:
        key = (*at, name, "NAME") if get_origin(field.annotation) is dict else (*at, name)
        if field.description:
            shown = "must be given" if field.is_required() else "left out" if value is None else ""
            yield Row(f"[{'.'.join(key)}]", shown, "table", field.description)
        yield from _rows(inner, value, key)


def _is_section(annotation: Type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _default(field: FieldInfo) -> Any:  # of any type
    return None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def _shown(field: FieldInfo, value: object) -> str:
    if field.is_required():
        return "must be given"
    return "left out" if value is None else f"`{value_text(value)}`"


def _kafka_rows() -> Iterator[Row]:
    """The fields of a connection; the rule of a number is what the connection says when it refuses one."""
    descriptions, hints = _descriptions(KafkaConnection), get_type_hints(KafkaConnection)
    for field in fields(KafkaConnection):
        if field.name not in KEYS:
            continue
        rule = "on or off" if hints[field.name] is bool else rule_of(hints[field.name])
        if hints[field.name] in {int, float}:
            rule += f", {_refusal(field.name, 0)}"
        default = "on" if field.default is True else "off" if field.default is False else str(field.default or "")
        yield Row(field.name, f"`{default}`" if default else "left out", rule, descriptions[field.name])


def _refusal(key: str, value: object) -> str:
    """What a connection says that `key` must be when it is `value`, which breaks its rule."""
    try:
        KafkaConnection(servers=("127.0.0.1:9092",), **{key: value})  # type: ignore[arg-type]  # broken on purpose
    except SettingsError as error:
        rule = str(error).partition(" must be ")[2].partition(", got ")[0]
        return rule.partition(" and below ")[0]  # 2**31, which the protocol's numbers hold, and nobody wants
    raise AssertionError(f"{key} takes {value}")


def _descriptions(kind: type) -> dict[str, str]:
    """The string under each field of a class, which a dataclass does not keep."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef), "the source of a class"
    return {
        first.target.id: inspect.cleandoc(second.value.value)
        for first, second in zip(body.body, body.body[1:], strict=False)
        if isinstance(first, ast.AnnAssign)
        and isinstance(first.target, ast.Name)
        and isinstance(second, ast.Expr)
        and isinstance(second.value, ast.Constant)
        and isinstance(second.value.value, str)
    }


def _codec_rows() -> Iterator[Row]:
    """The keys of a URL that are about codecs, as a URL writes them."""
    nested = {"limits": RecordLimits, "registry": RegistryAccess}
    for row in _rows(CodecChoice, None, ()):
        first, _, last = row.key.partition(".")
        if row.key.startswith("["):
            continue
        if first not in nested:
            yield row._replace(default="left out" if row.default in {"`[]`", '`""`'} else row.default)
        elif first == "limits":
            yield row._replace(key=last)
        else:
            key = "registry" if last == "url" else f"registry_{last}"
            yield row._replace(key=key, default="left out" if row.default in {"must be given", '`""`'} else row.default)


def _table(rows: Iterable[Row]) -> str:
    lines = ["| key | default | rule | what it is |", "|---|---|---|---|"]
    for row in rows:
        key = row.key.strip("[]")
        cells = [f"**`[{key}]`**" if row.key.startswith("[") else f"`{key}`", row.default, row.rule, row.description]
        lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
