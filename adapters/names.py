"""Names of streams as they stand in an adapter's table."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from edge_agent.model import NAME


def _checked(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no stream name: 1 to 63 of A-Z a-z 0-9 _ . -, beginning with a letter or digit")
    return value


StreamName = Annotated[str, AfterValidator(_checked)]
"""A name that paths, topics and HDF5 groups can hold; see `edge_agent.model.NAME`."""
