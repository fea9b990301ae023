"""EPICS: scalars over Channel Access and PV Access, images (NTNDArray) over PV Access."""

from adapters.epics.adapter import EpicsAdapter
from adapters.epics.config import EpicsConfig, PvConfig
from adapters.epics.watch import watch

__all__ = ["EpicsAdapter", "EpicsConfig", "PvConfig", "watch"]
