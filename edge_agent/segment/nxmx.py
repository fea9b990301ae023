"""What NXmx demands of area detectors beyond the other fields (docs/metadata.md, "NXmx"). Pure: the record's bytes in, objects out.

Only for detectors whose geometry is configured. What NXmx requires and nobody knows is NaN, or the text ``unknown``, and says why in an
attribute ``reason``: a program that needs it fails at once, and does not reckon with a guess. Groups have names that begin with ``_``, as
everything of the agent in the group of an instrument; fields have those that NXmx gives them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.seal.meta import DatasetMeta, GroupMeta, MetaObject, SoftLink, Value
from edge_agent.segment import types
from edge_agent.segment.nexus import MASTER

DEFINITION = "/entry/definition"
ESTIMATED = "/entry/end_time_estimated"
UNKNOWN = "unknown"
NOWHERE = (float("nan"),) * 3
BEAM = (0.0, 0.0, 1.0)
"""The direction of the beam in NeXus' frame."""

Objects = dict[str, MetaObject]
Vector = npt.NDArray[np.float64]


def detector_objects(record: str, series: str, frames: Mapping[str, tuple[int, ...]], ended: str) -> Objects:
    """The objects, parents before children; none where a detector of the file has no geometry.

    Args:
        record: the run record as canonical JSON.
        series: ``instrument/stream`` of a segment, or ``master``.
        frames: shape of one frame of each frame stream of the file, by ``instrument/stream``.
        ended: when the last frames came, ISO 8601.
    """
    said = json.loads(record)
    streams = {key.partition("/")[0]: key for key in sorted(frames, reverse=True)}
    detectors = [each for each in said.get("instruments", ()) if _is_in(each, series, streams)]
    if not detectors or any(each["name"] not in streams or "detector" not in each for each in detectors):
        return {}
    first = detectors[0]["detector"]
    sample = said.get("sample", {})
    found: Objects = {
        DEFINITION: _text("NXmx"),
        ESTIMATED: _text(ended),
        "/entry/sample": _group("NXsample"),
        "/entry/sample/name": _said(sample, "name"),
        "/entry/sample/depends_on": _text(".", "no axis of a goniometer is known: motors are streams of their own"),
        "/entry/source": _group("NXsource"),
        "/entry/source/name": _said(first, "source"),
        "/entry/instrument/_beam": _group("NXbeam"),
        "/entry/instrument/_beam/incident_wavelength": _numbers(first, "wavelength", "angstrom"),
    }
    for each in detectors:
        key = streams[each["name"]]
        found |= _detector(each, key, frames[key])
    return {} if any(f"/entry/instrument/{key}" in found for key in frames) else found


def _is_in(instrument: Mapping[str, Any], series: str, streams: Mapping[str, str]) -> bool:
    """Whether the file has an NXdetector for it: a master has all that deliver frames."""
    return instrument["name"] in streams or (series == MASTER and "frames" in instrument["delivers"])


def _detector(said: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> Objects:
    group, told = f"/entry/instrument/{said['name']}", said["detector"]
    axes, module = f"{group}/_transformations", f"{group}/_module"
    words = [said[name] for name in ("manufacturer", "model", "serialNumber") if isinstance(said.get(name), str)]
    exposure = said.get("facts", {}).get("exposure_s")
    found: Objects = {
        f"{group}/data": SoftLink(f"/entry/instrument/{key}/data"),
        f"{group}/depends_on": _text(f"{axes}/distance"),
        f"{group}/sensor_material": _said(told, "sensorMaterial"),
        f"{group}/sensor_thickness": _numbers(told, "sensorThickness", "mm"),
    }
    if words:
        found[f"{group}/description"] = _text(" ".join(words))
    if isinstance(exposure, int | float):
        found[f"{group}/count_time"] = _array(np.float64(exposure), {"units": types.text("s")})
    if not isinstance(told["distance"], dict):
        found[f"{group}/distance"] = _numbers(told, "distance", "mm")
    centre, size = told["beamCenter"], told["pixelSize"]
    if not isinstance(centre, dict) and not isinstance(size, dict):
        # A length in NXmx, whatever programs of detectors write there.
        for number, name in enumerate(("beam_center_x", "beam_center_y")):
            found[f"{group}/{name}"] = _array(np.float64(centre[number] * size[number]), {"units": types.text("mm")})
    found[axes] = _group("NXtransformations")
    found[f"{axes}/distance"] = _numbers(told, "distance", "mm", _axis(BEAM, "."))
    # Not the module's own field module_offset: pynxtools takes that name for the offset of a field "module".
    found[f"{axes}/first_pixel"] = _first_pixel(told, f"{axes}/distance")
    found |= {
        module: _group("NXdetector_module"),
        f"{module}/data_origin": _array(np.zeros(len(shape), "<i8"), {}),
        f"{module}/data_size": _array(np.array(shape, "<i8"), {}),
    }
    for number, name in enumerate(("fast", "slow")):
        direction = told[f"{name}Direction"]
        reason = direction["reason"] if isinstance(direction, dict) else ""
        axis = _axis(NOWHERE if reason else direction, f"{axes}/first_pixel", reason)
        pixel = size if isinstance(size, dict) else size[number]
        found[f"{module}/{name}_pixel_direction"] = _numbers({"size": pixel}, "size", "mm", axis)
    return found


def _first_pixel(told: Mapping[str, Any], depends_on: str) -> DatasetMeta:
    """Where the first pixel is, seen from where the beam meets the detector."""
    needed = [told[name] for name in ("beamCenter", "pixelSize", "fastDirection", "slowDirection")]
    reason = next((each["reason"] for each in needed if isinstance(each, dict)), "")
    if reason:
        return _array(np.float64("nan"), {"units": types.text("mm")} | _axis(NOWHERE, depends_on, reason))
    centre, size, fast, slow = (np.array(each, dtype=np.float64) for each in needed)
    offset: Vector = -(centre[0] * size[0] * fast + centre[1] * size[1] * slow)
    length = float(np.linalg.norm(offset))
    return _array(np.float64(length), {"units": types.text("mm")} | _axis(tuple(offset / length) if length else tuple(fast), depends_on))


def _axis(vector: tuple[float, ...], depends_on: str, reason: str = "") -> dict[str, Value]:
    """Attributes of a translation."""
    why = {"reason": types.text(reason)} if reason else {}
    return {
        "transformation_type": types.text("translation"), "vector": types.array(np.array(vector, dtype="<f8")),
        "offset": types.array(np.zeros(3, dtype="<f8")), "offset_units": types.text("mm"), "depends_on": types.text(depends_on), **why,
    }  # fmt: skip


def _numbers(said: Mapping[str, Any], key: str, units: str, attributes: Mapping[str, Value] | None = None) -> DatasetMeta:
    """A number of the record; NaN and the reason where there is none."""
    value = said[key]
    absent = isinstance(value, dict)
    why = {"reason": types.text(value["reason"])} if absent else {}
    return _array(np.float64("nan" if absent else value), {"units": types.text(units), **(attributes or {}), **why})


def _said(said: Mapping[str, Any], key: str) -> DatasetMeta:
    value = said[key]
    return _text(value) if isinstance(value, str) else _text(UNKNOWN, value["reason"])


def _text(value: str, reason: str = "") -> DatasetMeta:
    written = types.text(value.replace("\0", ""))
    return DatasetMeta(written.type, {"reason": types.text(reason)} if reason else {}, written)


def _array(value: npt.ArrayLike, attributes: Mapping[str, Value]) -> DatasetMeta:
    written = types.array(value)
    return DatasetMeta(written.type, attributes, written)


def _group(nx_class: str) -> GroupMeta:
    return GroupMeta({"NX_class": types.text(nx_class)})
