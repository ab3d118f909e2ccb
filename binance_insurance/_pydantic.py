"""What pydantic, and with it FastAPI, asks of our values. It is imported when it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeAlias

import msgspec

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

_Json: TypeAlias = "dict[str, _Json] | list[_Json] | str | float | bool | None"
_REFERENCE = "#/components/"


class PydanticStruct(msgspec.Struct, frozen=True):
    """A value that pydantic validates from its dict, writes as its dict, and documents."""

    def _as_dict(self) -> dict[str, object]:
        """Return the value as JSON's own types."""
        plain: dict[str, object] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def _from(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error  # the error that pydantic understands

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> CoreSchema:
        """Return how pydantic reads and writes the value."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._from,
            serialization=core_schema.plain_serializer_function_ser_schema(cls._as_dict),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: object, handler: object) -> dict[str, object]:
        """Return the JSON Schema of the value's dict, without references."""
        (root,), components = msgspec.json.schema_components(
            [cls], ref_template=_REFERENCE + "{name}"
        )
        return {key: _resolve(value, components) for key, value in _named(root, components).items()}


def _named(schema: dict[str, _Json], components: dict[str, _Json]) -> dict[str, _Json]:
    """Return what a schema refers to, or itself."""
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    named = components[reference.removeprefix(_REFERENCE)]
    return named if isinstance(named, dict) else {}


def _resolve(schema: _Json, components: dict[str, _Json]) -> _Json:
    """Put what a reference names in its place: pydantic names its own components otherwise."""
    if isinstance(schema, list):
        return [_resolve(each, components) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = _named(schema, components)
    return {key: _resolve(value, components) for key, value in found.items()}
