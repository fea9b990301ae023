"""What may stand in the table, and what the messages say when something else does."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from adapters.opcua import NodeConfig, OpcUaConfig
from adapters.opcua.nodes import safe_name

EXAMPLES = Path(__file__).parents[3] / "config"
ENDPOINT = "opc.tcp://10.0.0.5:4840"


def make(**table: object) -> OpcUaConfig:
    return OpcUaConfig.model_validate({"endpoint": ENDPOINT, "nodes": ["i=2258"], **table})


def test_durations_are_written_with_their_unit() -> None:
    config = make(publish="250 ms", sampling="1 s", timeout="0.1 min")
    assert (config.publish, config.sampling, config.timeout) == (0.25, 1.0, 6.0)


def test_a_configuration_survives_being_written_and_read() -> None:
    config = make(publish="250 ms", timeout="2 s", nodes=[{"id": "i=1", "name": "a"}], user="me", password_file="pw")
    assert OpcUaConfig.model_validate(config.model_dump(mode="json")) == config
    again = OpcUaConfig.model_validate({"endpoint": ENDPOINT, "nodes": ["i=1"], **config.options()})
    assert (again.timeout, again.user, again.password_file) == (2.0, "me", Path("pw"))


def test_a_node_is_text_or_a_table() -> None:
    config = make(nodes=["nsu=urn:m:f;s=T", {"id": "0:Objects/2:F", "name": "F", "unit": "K"}])
    assert config.node_tables() == [NodeConfig(id="nsu=urn:m:f;s=T"), NodeConfig(id="0:Objects/2:F", name="F", unit="K")]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"publish": 100}, "100 is no duration; write for example"),
        ({"publish": "fast"}, "'fast' is no duration"),
        ({"endpoint": "10.0.0.5"}, "is no endpoint; write for example opc.tcp://"),
        ({"endpoint": "opc.tcp://host:99999"}, "is no endpoint"),
        ({"endpoint": "opc.tcp://me:secret@host:4840"}, "must not hold a password; use user ="),
        ({"nodes": []}, "nothing to record: give nodes ="),
        ({"nodes": ["i=1", "i=1"]}, "the node 'i=1' is there twice"),
        ({"nodes": [{"id": "i=1", "name": "a"}, {"id": "i=2", "name": "a"}]}, "the stream 'a' is there twice"),
        ({"nodes": [{"id": "i=1", "name": "a/b"}]}, "'a/b' is no stream name"),
        ({"certificate": "own.pem"}, "certificate = and private_key = belong together"),
        ({"user_certificate": "me.pem"}, "user_certificate = and user_key = belong together"),
        ({"user_certificate": "me.pem", "user_key": "me.key"}, "needs security ="),
        ({"user": "me", "password_file": "p", "user_certificate": "me.pem", "user_key": "k"}, "not both"),
        ({"nodes": [{"id": "i=1", "pixels": "big"}]}, 'write for example "480 x 640 uint16"'),
        ({"security": "Basic128Rsa15"}, "Input should be"),
        ({"user": "me"}, "user = and password_file = belong together"),
        ({"password": "secret"}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_is_named_with_what_would_do(table: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make(**table)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("identifier", "name"), [("Temperature", "Temperature"), ('"DB1"."temp"', "DB1_._temp_"), ("...", "node"), ("x" * 80, "x" * 63)]
)
def test_an_identifier_becomes_a_name_that_a_path_can_hold(identifier: str, name: str) -> None:
    assert safe_name(identifier) == name


def test_the_example_configuration_is_valid() -> None:
    table = tomllib.loads((EXAMPLES / "opcua-lab.toml").read_text())["instrument"]
    for instrument in table.values():
        if instrument["adapter"] == "opcua":
            own = {key: value for key, value in instrument.items() if key in OpcUaConfig.model_fields}
            assert OpcUaConfig.model_validate(own).endpoint.startswith("opc.tcp://")
