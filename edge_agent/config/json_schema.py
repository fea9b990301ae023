"""The JSON Schema of a configuration (Draft 2020-12), for editors: completion, help and mistakes while one writes.

The keys of each installed adapter are folded into ``[instrument.NAME]`` by ``if`` / ``then`` on ``adapter``. An adapter that cannot be
imported here takes any key.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from edge_agent.adapter import AdapterConfig
from edge_agent.config import adapters
from edge_agent.config.models import Config, Instrument
from edge_agent.errors import ConfigError

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema of the TOML file, as JSON values."""
    configs = _configs()
    models: list[type[BaseModel]] = [Config, *(model for model in configs.values() if model is not None)]
    names, whole = models_json_schema([(model, "validation") for model in models], schema_generator=_AsWritten)
    definitions: dict[str, Any] = whole["$defs"]
    instrument = definitions[Instrument.__name__]
    del instrument["properties"]["settings"]
    del instrument["additionalProperties"]
    instrument["properties"]["adapter"]["examples"] = sorted(configs)
    instrument["allOf"] = [
        {
            "if": {"properties": {"adapter": {"const": name}}, "required": ["adapter"]},
            "then": {"additionalProperties": True} if model is None else _keys(definitions, names[(model, "validation")]),
        }
        for name, model in sorted(configs.items())
    ]
    instrument["unevaluatedProperties"] = False
    top = definitions.pop(Config.__name__)
    for model in configs.values():
        if model is not None:
            definitions.pop(_target(names[(model, "validation")]), None)
    definitions.pop(AdapterConfig.__name__, None)
    return {"$schema": DIALECT, "title": "edge-agent configuration", **{k: v for k, v in top.items() if k != "title"}, "$defs": definitions}


class _AsWritten(GenerateJsonSchema):
    """Shows defaults as they are written in the file, and leaves out what TOML does not have (null) or nobody reads (titles)."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A default in the notation of the file; none for "not given"."""
        made = super().default_schema(schema)
        if made.get("default", ...) is None:
            del made["default"]
        serialization: Any = schema["schema"].get("serialization", {})
        if "default" in made and (write := serialization.get("function")):
            made["default"] = write(schema["default"])
        return made

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """The type itself: a key that is not given is not there."""
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        """No."""
        return False


def _configs() -> dict[str, type[AdapterConfig] | None]:
    found: dict[str, type[AdapterConfig] | None] = {}
    for name in adapters.names():
        try:
            found[name] = adapters.adapter_class(name).Config
        except ConfigError:
            found[name] = None
    return found


def _target(reference: Any) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[-1]


def _keys(definitions: dict[str, Any], reference: Any) -> dict[str, Any]:
    own = definitions[_target(reference)]
    return {key: value for key, value in own.items() if key in ("properties", "required", "description")}
