"""Read TOML into the frozen dataclasses that stand beside the code which uses them."""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from autocompress.errors import SettingError

T = TypeVar("T")

# Metadata of a field whose None is written nowhere: what was hashed without it keeps its hash.
WHEN_SET: Mapping[str, str] = {"written": "when set"}


def read_settings(kind: type[T], path: Path | None, overrides: Sequence[str] = ()) -> T:
    """Read ``path``, change it by ``overrides`` and return it as a ``kind``.

    Args:
        kind: A frozen dataclass.
        path: A TOML file; None to start from the defaults of ``kind``.
        overrides: Texts such as ``search.evaluations=40``; the value is read as TOML, and as
            a string when it is none.

    Raises:
        SettingError: The file is missing or no TOML, a key is unknown, or a value is wrong.
    """
    record = {} if path is None else read_toml(path)
    for text in overrides:
        _override_(record, text)
    return parse_settings(kind, record)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        SettingError: The file is missing, unreadable or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingError(f"{path}: no such settings file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{path}: cannot be read as TOML: {error}") from error


def parse_settings(kind: type[T], record: Mapping[str, Any]) -> T:
    """Return plain tables as a ``kind``, without any conversion of types.

    Raises:
        SettingError: A key is unknown, or a value is wrong.
    """
    _refuse_unknown(kind, record, "")
    text = json.dumps(record, default=str)  # Only JSON mode is strict and still reads tables.
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise SettingError("; ".join(_explain(error))) from error


def change_settings(settings: T, changes: Mapping[str, Any]) -> T:
    """Return ``settings`` with other values.

    Args:
        settings: A frozen dataclass.
        changes: Plain values by dotted key, such as ``{"search.evaluations": 40}``.

    Raises:
        SettingError: A key is unknown, or a value is wrong.
    """
    record = settings_to_json(settings)
    for key, value in changes.items():
        _set_(record, key, value, key)
    return parse_settings(type(settings), record)


def settings_to_json(settings: Any) -> dict[str, Any]:
    """Return ``settings`` as plain tables that :func:`parse_settings` reads.

    ``2.0`` becomes ``2``: a default written as ``2`` and the ``2.0`` that is read back from these
    tables must lead to the same hashes. Fields with the metadata ``WHEN_SET`` are left out while
    they are None.
    """
    record: dict[str, Any] = _merge_numbers(json.loads(json.dumps(asdict(settings))))
    _omit_unset_(settings, record)
    return record


def hash_settings(settings: Any) -> str:
    """Return the SHA-256 of ``settings``; ``2`` and ``2.0`` are the same value."""
    text = json.dumps(settings_to_json(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def flatten_settings(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _omit_unset_(settings: Any, record: MutableMapping[str, Any]) -> None:
    """Remove from ``record`` what :data:`WHEN_SET` fields of ``settings`` do not say."""
    for one in fields(settings):
        value = getattr(settings, one.name)
        if is_dataclass(value):
            _omit_unset_(value, record[one.name])
        elif value is None and one.metadata == WHEN_SET:
            del record[one.name]


def _override_(record: dict[str, Any], text: str) -> None:
    """Set one value of ``record`` as a text says."""
    path, equals, value = text.partition("=")
    if not equals:
        raise SettingError(f"override {text!r}: want KEY.KEY=VALUE")
    _set_(record, path, _parse_value(value.strip()), text)


def _set_(record: dict[str, Any], path: str, value: Any, text: str) -> None:
    """Set one value of ``record``, making the tables on its way; ``text`` names it in errors."""
    names = [name.strip() for name in path.split(".")]
    if not all(names):
        raise SettingError(f"override {text!r}: want KEY.KEY=VALUE")
    table = record
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise SettingError(f"override {text!r}: {name!r} is a value, not a table")
    table[names[-1]] = value


def _parse_value(text: str) -> Any:
    try:
        tables = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return tables["value"] if len(tables) == 1 else text


def _refuse_unknown(kind: Any, record: Any, where: str) -> None:
    """Raise for the first key of ``record`` that no field of ``kind`` has."""
    if isinstance(record, list):
        for number, one in enumerate(record):
            for item in get_args(kind)[:1]:
                _refuse_unknown(item, one, f"{where.removesuffix('.')}[{number}].")
        return
    if not isinstance(record, Mapping):
        return
    kinds = _choose_kinds(kind, record)
    if not kinds:
        return
    hints: dict[str, Any] = {}
    for one in kinds:
        types = get_type_hints(one)
        hints |= {field.name: types[field.name] for field in fields(one) if field.init}
    for key, value in record.items():
        if key not in hints:
            raise SettingError(f"{where}{key}: no such setting; {_hint(key, list(hints))}")
        _refuse_unknown(hints[key], value, f"{where}{key}.")


def _choose_kinds(kind: Any, record: Mapping[str, Any]) -> list[Any]:
    """Return the dataclasses that ``record`` may be: those of a union that it names by a tag."""
    members = list(_list_members(kind))
    if len(members) < 2:
        return members
    return [one for one in members if _has_tags(one, record)] or members


def _list_members(kind: Any) -> Iterator[Any]:
    if is_dataclass(kind):
        yield kind
    elif get_origin(kind) is not dict:
        for one in get_args(kind):
            yield from _list_members(one)


def _has_tags(kind: Any, record: Mapping[str, Any]) -> bool:
    """Return whether ``record`` contradicts no field of ``kind`` with a list of values."""
    return all(
        record.get(name, get_args(hint)[0]) in get_args(hint)
        for name, hint in get_type_hints(kind).items()
        if get_origin(hint) is Literal
    )


def _hint(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"


def _explain(error: ValidationError) -> Iterator[str]:
    """Return one sentence for each thing wrong, in our own tone."""
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, SettingError):
            yield str(cause)
        elif item["type"] == "missing":
            yield f"{where}: this setting has no default and is missing"
        else:
            message = item["msg"].removeprefix("Value error, ")
            yield f"{where}: {message[:1].lower()}{message[1:]}, got {item['input']!r}"


def _merge_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _merge_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_merge_numbers(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
