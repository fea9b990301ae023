"""Runs in an environment with pynxtools: judges each entry by its application definition, or by the base classes where it names none.

Prints, by file: the definition, what is wrong, and what the definitions of NeXus do not know (which they allow).
"""

from __future__ import annotations

import json
import logging
import sys

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
from pynxtools.dataconverter.helpers import collector
from pynxtools.dataconverter.validation import validate_hdf_group_against

logging.disable(logging.CRITICAL)


def judged(path: str) -> dict[str, object]:
    with h5py.File(path) as file:
        named = file["entry"].get("definition")
        definition = "NXroot" if named is None else named.asstr()[()]
        validate_hdf_group_against(definition, file["entry"], path, ignore_undocumented=False)
        everything = set(collector.get())
        valid = validate_hdf_group_against(definition, file["entry"], path, ignore_undocumented=True)
        wrong = set(collector.get())
    assert valid == (not wrong)
    unknown = sorted(line.partition("ValidationProblem.")[0] for line in everything - wrong)
    return {"definition": definition, "wrong": sorted(wrong), "unknown": unknown}


print(json.dumps({path: judged(path) for path in sys.argv[1:]}))
