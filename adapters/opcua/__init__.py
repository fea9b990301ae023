"""OPC-UA: the variables of a server as rows and frames, its events as a stream, by subscription."""

from adapters.opcua.adapter import OpcUaAdapter
from adapters.opcua.config import NodeConfig, OpcUaConfig
from adapters.opcua.trust import examine, trust
from adapters.opcua.watch import watch

__all__ = ["NodeConfig", "OpcUaAdapter", "OpcUaConfig", "examine", "trust", "watch"]
