"""Keys of a kafka: URL and of the settings file it may name, read strictly: unknown keys and secrets are refused."""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias, get_args

from fedmb.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Driver: TypeAlias = Literal["kafka-python", "confluent"]
Isolation: TypeAlias = Literal["read_committed", "read_uncommitted"]
OnDamage: TypeAlias = Literal["stop", "skip"]
Compression: TypeAlias = Literal["none", "gzip", "lz4", "zstd"]
Sasl: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

WORDS: dict[str, tuple[str, ...]] = {
    "driver": get_args(Driver),
    "isolation": get_args(Isolation),
    "on_gap": get_args(OnDamage),
    "on_corrupt": get_args(OnDamage),
    "compression": get_args(Compression),
    "sasl": get_args(Sasl),
}
"""Keys that take one of a few words."""
FLOATS = ("connect_seconds", "stall_seconds", "delivery_seconds", "away_seconds")
INTEGERS = ("fetch_bytes", "buffer_bytes", "create_partitions", "create_replication")
TEXTS = ("group", "tls_ca", "tls_certificate", "tls_key", "tls_key_password_file", "user", "password_file")
SETTINGS = "settings"
KEYS = (*WORDS, "tls", *FLOATS, *INTEGERS, *TEXTS)

DEFAULT_PORT = 9092
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_SECRET = re.compile(r"pass|secret|token|pin", re.IGNORECASE)
_SWITCH = {"on": True, "true": True, "off": False, "false": False}
_LONGEST_SECRET = 1 << 16  # bytes; a password's file that is longer is another file


def refuse(key: str, message: str) -> NoReturn:
    """Raise what every broken key raises."""
    raise SettingsError(message, key=key)


def servers_of(text: str) -> tuple[str, ...]:
    """host:port of each broker in a list with commas between.

    Raises:
        SettingsError: there is none, or one has another form. What stands before an @ is never quoted.
    """
    servers = []
    for part in text.split(","):
        if "@" in part:
            refuse(
                "password_file",
                "a kafka: stream must name no user or password before its host, got an @; write &user=NAME and "
                "&password_file=PATH behind the topic",
            )
        match = _SERVER.fullmatch(part)
        if match is None or not 0 < int(match[2] or DEFAULT_PORT) < 1 << 16:
            refuse("servers", f"a broker is written host:port, got {part!r}; like kafka://broker.example:9092/topic")
        servers.append(f"{match[1]}:{match[2] or DEFAULT_PORT}")
    return tuple(servers)


def read_options(options: Mapping[str, str]) -> dict[str, object]:
    """Values by key: the URL's, and below them those of the file that its key `settings` names.

    Raises:
        SettingsError: a key is unknown or holds a secret, a value has another form, or the file cannot be read.
    """
    values: dict[str, object] = {}
    if SETTINGS in options:
        path = options[SETTINGS]
        values.update((key, _converted(key, value, f" in {path}")) for key, value in _from_file(path).items())
    values.update((key, _converted(key, value, "")) for key, value in options.items() if key != SETTINGS)
    return values


def check_word(key: str, value: str, where: str = "") -> None:
    """Accept one of the words that `key` takes; `where` it stands is told.

    Raises:
        SettingsError: it is another one; the nearest is named.
    """
    if value not in WORDS[key]:
        refuse(
            key, f"{key} must be one of {', '.join(WORDS[key])}, got {value!r}{where}; {_way_out(value, WORDS[key])}"
        )


def read_file(path: str, key: str) -> bytes:
    """Bytes of a file that a key names.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        refuse(key, f"{key} must name a file that can be read, got {path!r} ({error.strerror}); mend path or rights")


def read_secret(path: str, key: str) -> str:
    """Text of a secret's file without the newline at its end; nothing of it is ever quoted.

    Raises:
        SettingsError: the file cannot be read, is empty, not UTF-8 or longer than a secret.
    """
    content = read_file(path, key)
    try:
        secret = content.decode().rstrip("\r\n") if len(content) <= _LONGEST_SECRET else ""
    except UnicodeDecodeError:
        secret = ""
    if not secret:
        refuse(key, f"{key} must name a file with a secret in UTF-8, got {path!r} without one; write the secret there")
    return secret


def _from_file(path: str) -> dict[str, object]:
    try:
        return tomllib.loads(read_file(path, SETTINGS).decode())
    except ValueError as error:  # of TOML, or of UTF-8; the first quotes a character, never a line
        refuse(SETTINGS, f"{SETTINGS} must name a TOML file, got {path!r} ({error}); write keys like user = 'alice'")


def _converted(key: str, value: object, where: str) -> object:
    """The value in its key's type; the URL brings text, a TOML file its own types."""
    if key not in KEYS:
        if _SECRET.search(key):
            file = "tls_key_password_file" if "key" in key else "password_file"
            refuse(key, f"a secret must stand in a file of its own, got {key}=...{where}; write {file}=PATH instead")
        refuse(key, f"a kafka: stream has no {key!r}{where}; {_way_out(key, (*KEYS, SETTINGS))}")
    if key == "tls":
        switch = value if isinstance(value, bool) else _SWITCH.get(str(value).lower())
        if switch is None:
            refuse(key, f"tls must be on or off, got {value!r}{where}; on is implied by tls_ca")
        return switch
    if key in FLOATS or key in INTEGERS:
        return _number(key, value, where)
    if not isinstance(value, str) or not value:
        refuse(key, f"{key} must be a text, got {value!r}{where}; leave the key out where there is none")
    if key in WORDS:
        check_word(key, value, where)
    return value


def _number(key: str, value: object, where: str) -> float:
    kinds = (int, float) if key in FLOATS else (int,)
    if isinstance(value, str):
        try:
            return float(value) if key in FLOATS else int(value)
        except ValueError:
            pass
    elif isinstance(value, kinds) and not isinstance(value, bool):
        return value
    number = "a number" if key in FLOATS else "a whole number"
    refuse(key, f"{key} must be {number}, got {value!r}{where}; write it without a unit")


def _way_out(word: str, known: Iterable[str]) -> str:
    by_letters = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_letters, n=1)
    return f"did you mean {by_letters[near[0]]}?" if near else f"use one of {', '.join(by_letters.values())}"
