"""The JSON Schema of a configuration (Draft 2020-12), for editors: completion, help and mistakes while one writes.

The keys of each installed adapter are folded into ``[instrument.NAME]`` by ``if`` / ``then`` on ``adapter``. An adapter that cannot be
imported here takes any key.
"""

from __future__ import annotations

from pathlib import PurePath
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
    folded = [model for model in configs.values() if model is not None]
    models: list[type[BaseModel]] = [Config, Instrument, AdapterConfig, *folded]
    references, whole = models_json_schema([(model, "validation") for model in models], schema_generator=_AsWritten)
    definitions: dict[str, Any] = whole["$defs"]
    # Adapters may have a class of the same name as ours: only the references say which definition is whose.
    names = {model: str(references[(model, "validation")]["$ref"]).rsplit("/", 1)[-1] for model in models}
    own = {model: definitions.pop(names[model]) for model in models if model is not Instrument}
    instrument = definitions[names[Instrument]]
    del instrument["properties"]["settings"]
    del instrument["additionalProperties"]
    instrument["properties"]["adapter"]["examples"] = sorted(configs)
    instrument["allOf"] = [
        {
            "if": {"properties": {"adapter": {"const": name}}, "required": ["adapter"]},
            "then": {"additionalProperties": True} if model is None else _keys(own[model]),
        }
        for name, model in sorted(configs.items())
    ]
    instrument["unevaluatedProperties"] = False
    top = {key: value for key, value in own[Config].items() if key != "title"}
    return {"$schema": DIALECT, "title": "edge-agent configuration", **top, "$defs": definitions}


class _AsWritten(GenerateJsonSchema):
    """Shows defaults as they are written in the file, and leaves out what TOML does not have (null) or nobody reads (titles)."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A default in the notation of the file; none for "not given"."""
        made = super().default_schema(schema)
        if made.get("default", ...) is None:
            del made["default"]
        serialization: Any = schema["schema"].get("serialization", {})
        if "default" in made and isinstance(schema["default"], PurePath):
            made["default"] = str(schema["default"])
        elif "default" in made and (write := serialization.get("function")):
            made["default"] = write(schema["default"])
        if made.get("type") == "string" and not isinstance(made.get("default", ""), str):
            del made["default"]  # the value, of which nobody said how it is written
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


def _keys(own: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in own.items() if key in ("properties", "required", "description")}
