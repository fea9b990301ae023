"""The forms of a run's one record, by name: what to write, and under which ending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_agent.export.croissant import croissant
from edge_agent.export.datacite import datacite
from edge_agent.export.jpcoar import jpcoar
from edge_agent.export.prov import prov
from edge_agent.export.rdm_form import rdm_form
from edge_agent.export.run_folder import RunFolder

FORMS: dict[str, tuple[str, Callable[[RunFolder], bytes]]] = {
    "croissant": ("croissant.json", croissant),
    "datacite": ("datacite.json", datacite),
    "jpcoar": ("jpcoar.xml", jpcoar),
    "prov": ("prov.json", prov),
    "rdm-form": ("rdm.json", rdm_form),
}


def write_form(run: RunFolder, form: str, out: Path) -> Path:
    """Write ``<project>-<run>.<ending>`` into a folder.

    Raises:
        KeyError: no such form.
    """
    ending, make = FORMS[form]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{run.record['project']['name']}-{run.name}.{ending}"
    path.write_bytes(make(run))
    return path
