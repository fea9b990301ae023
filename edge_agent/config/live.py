"""The ``[live.NAME]`` tables: where values go the moment they come, for whoever may see them. Not a target: it proves nothing."""

from __future__ import annotations

from pydantic import Field, StrictBool

from edge_agent.config.secret import Secret
from edge_agent.config.targets import MqttUrl, Table
from edge_agent.config.values import Duration, LocalPath


class LiveTable(Table):
    """SINETStream readers behind an MQTT broker."""

    sinetstream: MqttUrl
    """Address of the broker, as "mqtts://broker.example.ac.jp:8883"."""
    topic: str = Field(default="", pattern=r"^([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)?$")
    """Beginning of all topics. Default: the name of the site."""
    every: Duration = Field(default=1.0, ge=0.05)
    """The newest value of each stream goes out so often. Default "1 s"."""
    values: StrictBool = True
    """Whether values go out; else only what has landed is announced. Default true."""
    user: str | None = None
    """User at the broker. Default: none."""
    password: Secret | None = None
    """Password at the broker, by reference: {file = "..."}."""
    ca: LocalPath | None = None
    """PEM file of the authority that issued the broker's certificate. Default: the system's authorities."""
    jurisdiction: str = Field(default="", pattern=r"^([A-Z]{2})?$")
    """Country in which the broker stands, as "JP". Default: nobody said."""
