"""Geometry of an area detector for the run record: configured, or what the camera says of itself under a name given there."""

from __future__ import annotations

import math
from collections.abc import Mapping

from edge_agent.config.models import Nxmx
from edge_agent.provenance.facts import NOT_CONFIGURED, Absent, Detector

Facts = Mapping[str, str | int | float]


def detector_facts(configured: Nxmx | None, facts: Facts) -> Detector | None:
    """None where the instrument was not said to be an area detector.

    Args:
        configured: its table ``nxmx``; a text is the name of a fact.
        facts: what the instrument says of itself.
    """
    if configured is None:
        return None
    centre = configured.beam_center
    x, y = (_number(each, facts, least=-math.inf) for each in centre or (None, None))
    return Detector(
        source=configured.source or NOT_CONFIGURED,
        wavelength=_number(configured.wavelength, facts),
        distance=_number(configured.distance, facts),
        beam_center=x if isinstance(x, Absent) else y if isinstance(y, Absent) else (x, y),
        pixel_size=configured.pixel_size or NOT_CONFIGURED,
        fast_direction=configured.fast_direction or NOT_CONFIGURED,
        slow_direction=configured.slow_direction or NOT_CONFIGURED,
        sensor_material=configured.sensor_material or NOT_CONFIGURED,
        sensor_thickness=configured.sensor_thickness or NOT_CONFIGURED,
    )


def _number(said: str | float | None, facts: Facts, least: float = 0) -> float | Absent:
    """Cameras tell a length of 0 that nobody set."""
    if said is None:
        return NOT_CONFIGURED
    value = facts.get(said) if isinstance(said, str) else said
    if isinstance(value, int | float) and math.isfinite(value) and value > least:
        return float(value)
    return Absent(f"the instrument does not say {said}")
