"""``key=value`` words become typed Settings, and every mistake becomes a sentence.

A value is read as JSON, else taken as text; ``optimizer.learning_rate=1e-3`` reaches into a part. Layers are applied
in order (class defaults, preset, the workspace's plan, the words), the last wins, and the source of each value is kept.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from medseg.documents import Record
from medseg.errors import SettingsError


class Settings(Record):
    """Base of every command's settings: a frozen model with a docstring under each field."""


_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "MIB": 2**20, "GIB": 2**30}


def _read_seconds(value: Any) -> Any:
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-z]+)\s*", value) if isinstance(value, str) else None
    if match and match[2] in _UNITS:
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, str):
        raise ValueError("expected a time such as 90s, 15min or 2h")
    return value


def _read_bytes(value: Any) -> Any:
    match = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]+)\s*", value) if isinstance(value, str) else None
    if match and match[2].upper() in _SIZES:
        return int(float(match[1]) * _SIZES[match[2].upper()])
    if isinstance(value, str):
        raise ValueError("expected an amount of memory such as 800MB or 8GB")
    return value


Seconds = Annotated[float, BeforeValidator(_read_seconds), Field(ge=0)]
"""A time: 90s, 15min, 2h, or a number of seconds."""
Bytes = Annotated[int, BeforeValidator(_read_bytes), Field(gt=0)]
"""An amount of memory: 800MB, 8GB, or a number of bytes."""


def read_words(words: Sequence[str]) -> dict[str, str]:
    """Split ``key=value`` words. Raises SettingsError for a word without '=' and for a key given twice."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.lstrip("-")
        if not equals or not key:
            raise SettingsError(f"'{word}' should be written as key=value, for example fold=0.")
        if key in found:
            raise SettingsError(f"The setting '{key}' is given twice: {found[key]!r} and {value!r}. Leave one out.")
        found[key] = value
    return found


def read_value(text: str) -> Any:
    """JSON if it is JSON (``[64,64,64]``, ``true``), a list of words or paths (``[a,b]``), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        words = re.fullmatch(r"\[\s*([\w./~+-]+(?:\s*,\s*[\w./~+-]+)*)\s*\]", text)
        return [read_value(word.strip()) for word in words[1].split(",")] if words else text


S = TypeVar("S", bound=Record)


def build(model: type[S], words: Mapping[str, str], base: Mapping[str, Any] | None = None) -> S:
    """Apply words to a model over ``base`` values (nested plain data).

    Raises SettingsError with one sentence that names the setting, what was expected and what was given.
    """
    for key in words:
        require_known(key, [model])
    try:
        return model.model_validate(_merged(base, {key: read_value(text) for key, text in words.items()}))
    except ValidationError as error:
        # "dataset=123" is a folder's name, not a number: where JSON did not fit, try the text as it stands.
        refused = {".".join(str(part) for part in finding["loc"]) for finding in error.errors()}
        values = {key: text if key in refused else read_value(text) for key, text in words.items()}
    try:
        return model.model_validate(_merged(base, values))
    except ValidationError as error:
        raise SettingsError(_sentence(model, error)) from None


def require_known(key: str, models: Sequence[type[BaseModel]]) -> None:
    """Raise SettingsError, naming the nearest known setting, unless one of the models has this (dotted) key."""
    known = [name for model in models for name in setting_names(model)]
    if key in known or any(name.startswith(key + ".") for name in known):
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else f" Known are: {', '.join(sorted({*known}))}."
    raise SettingsError(f"There is no setting '{key}'.{hint}")


def setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a model, parts included."""
    for name, field in model.model_fields.items():
        parts = [t for t in (field.annotation, *get_args(field.annotation)) if _is_record(t)]
        yield prefix + name
        for part in parts:
            yield from setting_names(part, f"{prefix}{name}.")


def describe(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of every setting, for ``medseg COMMAND help``."""
    # What several commands share comes after a command's own.
    inherited = {name for parent in model.__mro__[1:] for name in getattr(parent, "model_fields", ())}
    for name, field in sorted(model.model_fields.items(), key=lambda one: one[0] in inherited):
        part = next((t for t in (field.annotation, *get_args(field.annotation)) if _is_record(t)), None)
        if part is not None:
            yield from describe(part, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        # Pydantic keeps the reader of a plain ``Seconds`` field apart from its type.
        reader = next((known for part in field.metadata if (known := _READERS.get(getattr(part, "func", None)))), None)
        yield (
            prefix + name,
            reader or _type_name(field.annotation),
            default,
            " ".join((field.description or "").split()),
        )


def _is_record(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(_shown(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else str(value)


_READERS: dict[Any, str] = {_read_seconds: "time", _read_bytes: "memory"}
_PLAIN = {int: "int", float: "number", str: "text", bool: "true|false", Path: "path", type(None): "none"}


def _type_name(annotation: Any) -> str:
    """A type as a user would call it: ``2d|3d_fullres``, ``[int,int,int]``, ``time``."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        readers = (_READERS.get(getattr(part, "func", None)) for part in parts[1:])
        return next((name for name in readers if name), _type_name(parts[0]))
    if origin is Literal:
        return "|".join(str(part) for part in parts)
    if origin in (Union, UnionType):
        return "|".join(_type_name(part) for part in parts if part is not type(None))
    if origin in (tuple, list):
        inner = [_type_name(part) for part in parts if part is not Ellipsis]
        return "[" + ",".join(inner) + (",..." if Ellipsis in parts or origin is list else "") + "]"
    return _PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _merged(base: Mapping[str, Any] | None, values: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(base or {}, default=str))
    for key, value in values.items():
        *parents, last = key.split(".")
        place = result
        for parent in parents:
            inner = place.get(parent)
            place[parent] = inner if isinstance(inner, dict) else {}
            place = place[parent]
        place[last] = value
    return result


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    sentences = []
    for finding in error.errors(include_url=False):
        key = ".".join(str(part) for part in finding["loc"] if not isinstance(part, int))
        if finding["type"] == "missing":
            sentences.append(f"The setting '{key}' is needed: write {key}=...")
            continue
        field = model.model_fields.get(key.split(".")[0])
        expected = _type_name(field.annotation) if field is not None else "another value"
        message = finding["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        place = f"The setting '{key}'" if key else "The settings"
        got = "" if message.endswith((".", "?")) else f", got {finding.get('input')!r}."
        sentences.append(f"{place} (type {expected}): {message}{got}")
    return " ".join(dict.fromkeys(sentences))
