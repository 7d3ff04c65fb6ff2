"""The base of everything medseg writes to disk and reads back: typed, frozen, versioned YAML or JSON.

Knows nothing of what the documents say. A file opens with its kind and format number, so that an old or foreign file
is named as such instead of failing field by field. What people write by hand may be TOML: read, and never written.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medseg.errors import MedsegError
from medseg.files import hash_content, write_text


class Record(BaseModel):
    """A typed, frozen part of a Document; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


class Document(Record):
    """A file of its own: YAML or JSON by its suffix, with ``kind`` and ``format`` as its first two keys."""

    kind: ClassVar[str]
    format: ClassVar[int] = 1
    error: ClassVar[type[MedsegError]] = MedsegError

    def save(self, path: Path) -> None:
        """Write the document whole (atomically). Raises MedsegError when the disk refuses."""
        content = self.content()
        if Path(path).suffix == ".json":
            write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        else:
            write_text(path, self.to_yaml(content))

    def content(self) -> dict[str, Any]:
        """Plain dictionaries, lists and scalars, as they stand in the file."""
        return {"kind": self.kind, "format": self.format, **self.model_dump(mode="json", exclude_none=True)}

    def to_yaml(self, content: dict[str, Any]) -> str:
        """The YAML text; a document that carries remarks of its own overrides this."""
        return dump_yaml(content)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and validate. Raises the class's own ``error`` with one sentence naming the file and the field."""
        return cls.from_text(read_text(Path(path), cls.error), str(path))

    @classmethod
    def from_text(cls, text: str, where: str) -> Self:
        """Validate YAML, JSON or TOML text by the suffix of ``where``, which names the source in errors."""
        language = {".json": "JSON", ".toml": "TOML"}.get(Path(where).suffix, "YAML or JSON")
        try:
            content = _READERS.get(Path(where).suffix, _read_yaml)(text)
        except (yaml.YAMLError, ValueError) as error:
            raise cls.error(f"{where} is not readable as {language}: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise cls.error(f"{where} should hold a document of kind {cls.kind}, but holds {type(content).__name__}.")
        kind, format_number = content.pop("kind", None), content.pop("format", None)
        if kind != cls.kind:
            raise cls.error(f"{where} should open with 'kind: {cls.kind}', but says {kind!r}.")
        if format_number != cls.format:
            raise cls.error(
                f"{where} has format {format_number!r}, and this medseg reads format {cls.format}. "
                "Use the medseg that wrote it, or make it anew."
            )
        return cls.validated(content, where)

    @classmethod
    def validated(cls, content: dict[str, Any], where: str) -> Self:
        """Build the document from plain data; every wrong field is named in one sentence."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise cls.error(f"{where}: {describe_validation(error)}") from None

    def content_hash(self) -> str:
        """SHA-256 of the content; equal documents have equal hashes."""
        return hash_content(self.content())


def describe_validation(error: ValidationError) -> str:
    """Pydantic's findings as sentences a user can act on."""
    sentences = []
    for finding in error.errors(include_url=False):
        place = ".".join(str(part) for part in finding["loc"]) or "the document"
        got = finding.get("input")
        shown = f" (got {got!r})" if isinstance(got, str | int | float | bool | list) and len(repr(got)) < 80 else ""
        sentences.append(f"{place}: {finding['msg'].removeprefix('Value error, ')}{shown}")
    return "; ".join(sentences) + "."


def read_text(path: Path, error: type[MedsegError] = MedsegError) -> str:
    """A text file's content, or one sentence that says which file is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"There is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path} could not be read: {problem}.") from None


class _Dumper(yaml.SafeDumper):
    """Block style for mappings, one line for lists of numbers."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (the base class names the argument)
        return True


def _flat(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) or (
        isinstance(value, list) and all(_flat(item) and not isinstance(item, str) for item in value)
    )


def _represent_list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=all(_flat(item) for item in data))


_Dumper.add_representer(list, _represent_list)
_FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C build of SafeLoader where there is one, and SafeLoader itself elsewhere."""


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _FAST_LOADER)  # noqa: S506 (both are safe loaders)


_READERS: dict[str, Callable[[str], Any]] = {".json": json.loads, ".toml": tomllib.loads}


def dump_yaml(content: Any) -> str:
    """YAML as people write it: keys in their order, lists of numbers on one line."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
