"""OPC-UA: the variables of a server as rows, by subscription."""

from adapters.opcua.adapter import OpcUaAdapter
from adapters.opcua.config import NodeConfig, OpcUaConfig
from adapters.opcua.watch import watch

__all__ = ["NodeConfig", "OpcUaAdapter", "OpcUaConfig", "watch"]
