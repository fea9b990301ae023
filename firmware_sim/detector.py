"""The area detector itself, over PV Access (p4p server): NTNDArray frames as areaDetector's NDPluginPva sends them.

Invariants: `timeStamp` and `dataTimeStamp` of a frame are the truth's `t`; uniqueId rises by one per exposure, from 1,
also for exposures that a fault drops; before the first frame the PV holds an empty array, like real servers. The
frame number inside the pixels counts exposures and does not restart with uniqueId.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from p4p import Value
from p4p.nt import NTNDArray, NTScalar
from p4p.server import Server
from p4p.server.thread import SharedPV

from firmware_sim.faults import Fault
from firmware_sim.frames import FrameSource
from firmware_sim.instrument import StartError
from firmware_sim.loopback import LOOPBACK
from firmware_sim.truth import Scalar, TruthWriter

NS: Final = 1_000_000_000
IMAGE: Final = "Pva1:Image"
STREAM: Final = "image"
UNITS: Final[Mapping[str, str]] = {
    STREAM: "counts", "AcquireTime_RBV": "s", "Manufacturer_RBV": "", "Model_RBV": "", "SerialNumber_RBV": "",
}  # fmt: skip
FRAME_FAULTS: Final[Mapping[str, str]] = {
    "drop": "the next ARG (3) exposures get a uniqueId and are never sent",
    "reset": "uniqueId starts again at 1",
    "empty": "one update with an array of no elements and uniqueId 0; no exposure",
    "garbage": "an exposure is sent with dimensions that do not fit its pixels",
    "partial": "an exposure is sent with half of its pixels",
    "duplicate": "an exposure is sent twice",
    "reorder": "two exposures are sent in the wrong order",
    "typechange": "ARG (3) exposures are of 32 bits a pixel",
}


class Detector:
    """Serves the image and the camera's scalars, and takes exposures.

    Args:
        rng: the instrument's random numbers.
        truth: where exposures are noted, as stream `image`.
        prefix: before every PV, without the colon.
        shape: rows and columns of a frame.
        codec: see `firmware_sim.codecs`.
        period: exposure time in seconds.
        facts: further scalars below `cam1:`.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        truth: TruthWriter,
        *,
        prefix: str,
        shape: tuple[int, int],
        codec: str,
        period: float,
        facts: Mapping[str, Scalar],
    ) -> None:
        self._truth = truth
        self._prefix = prefix
        self._shape = shape
        self._codec = codec
        self._frames = FrameSource(rng, shape)
        self._type = NTNDArray.buildType()
        self._facts: dict[str, Scalar] = {"AcquireTime_RBV": period, "Manufacturer_RBV": "firmware-sim", **facts}
        self._image: SharedPV | None = None
        self._server: Server | None = None
        self._exposures = 0
        self._unique_id = 0
        self._wide = 0
        self.port = 0

    def serve(self, port: int, seen: Callable[[], object]) -> dict[str, Any]:
        """Serve the image, empty, and the scalars; returns the addresses for the ready line. `seen` is called from a thread."""

        class Handler:
            def onFirstConnect(self, _pv: SharedPV) -> None:  # p4p's name
                seen()

        self._image = SharedPV(handler=Handler(), initial=Value(self._type, {}))
        pvs = {f"{self._prefix}:{IMAGE}": self._image}
        for name, value in self._facts.items():
            t = self._truth.now()
            self._truth.initial(name, t, value)
            pvs[f"{self._prefix}:cam1:{name}"] = SharedPV(initial=_scalar(value, t, UNITS[name]))
        self._server = Server(providers=[pvs], useenv=False, conf=server_conf(port))
        conf = self._server.conf()
        self.port, broadcast_port = int(conf["EPICS_PVAS_SERVER_PORT"]), int(conf["EPICS_PVAS_BROADCAST_PORT"])
        if port not in (0, self.port):
            raise StartError(f"port {port} is taken (pvxs took {self.port} instead); choose another --port or leave it out")
        env = client_env(self.port, broadcast_port)
        addresses = {"pv": f"{self._prefix}:{IMAGE}", "port": self.port, "broadcast_port": broadcast_port}
        return {**addresses, "shape": list(self._shape), "env": env}

    def suffer(self, fault: Fault, at: float) -> None:
        """Note and do what `FRAME_FAULTS` says."""
        details: dict[str, Any] = {}
        if fault.kind == "reset":
            details = {"last_unique_id": self._unique_id}
        elif fault.kind == "drop":
            details = {"first_unique_id": self._unique_id + 1, "count": int(fault.number(3))}
        self._truth.fault(fault.kind, at, fault.arg, **details)
        match fault.kind:
            case "reset":
                self._unique_id = 0
            case "empty":
                self._post({"value": ("ushortValue", np.empty(0, np.uint16)), "uniqueId": 0, "dimension": []})
            case "drop":
                for _ in range(details["count"]):
                    self._note(*self._take(), dropped=True)
            case "garbage" | "partial":
                frame, number, t = self._take()
                self._note(frame, number, t, dropped=True)
                sent = frame.ravel()[: frame.size // 2] if fault.kind == "partial" else frame.ravel()
                shape = frame.shape if fault.kind == "partial" else (frame.shape[0] + 1, frame.shape[1])
                self._post(_nd_array(sent, shape, number, t))
            case "duplicate":
                exposure = self._take()
                for _ in range(2):
                    self._send(*exposure)
            case "reorder":
                first, second = self._take(), self._take()
                self._send(*second)
                self._send(*first)
            case "typechange":
                self._wide = int(fault.number(3))

    def expose(self) -> None:
        """Take and send one frame."""
        self._send(*self._take())

    def stop(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.stop()

    def _take(self) -> tuple[npt.NDArray[Any], int, int]:
        self._exposures += 1
        self._unique_id += 1
        frame: npt.NDArray[Any] = self._frames.frame(self._exposures)
        if self._codec == "jpeg":
            frame = np.minimum(frame, 255).astype(np.uint8)
        if self._wide:
            self._wide -= 1
            frame = frame.astype("<u4")
        return frame, self._unique_id, self._truth.now()

    def _send(self, frame: npt.NDArray[Any], number: int, t: int) -> None:
        codec = "none" if self._codec == "jpeg" and frame.dtype != np.uint8 else self._codec
        if codec == "none":
            self._note(frame, number, t)
            self._post(_nd_array(frame.ravel(), frame.shape, number, t))
            return
        # Imported here: a camera that does not pack starts without HDF5 and its plugins.
        from firmware_sim.codecs import compress, pixel_type

        payload, shown = compress(frame, codec)
        packed = {"codec": {"name": codec, "parameters": pixel_type(frame.dtype)}, "uncompressedSize": frame.nbytes}
        self._note(shown, number, t)
        self._post(_nd_array(payload, frame.shape, number, t) | packed)

    def _note(self, frame: npt.NDArray[Any], number: int, t: int, *, dropped: bool = False) -> None:
        digest = hashlib.sha256(frame.tobytes()).hexdigest()
        shape = (int(frame.shape[0]), int(frame.shape[1]))
        self._truth.item(STREAM, t, sha256=digest, shape=shape, dtype=frame.dtype.name, unique_id=number, dropped=dropped)

    def _post(self, fields: Mapping[str, Any]) -> None:
        if self._image is None:
            raise RuntimeError("the detector is not served")
        self._image.post(Value(self._type, fields))


def _nd_array(payload: npt.NDArray[Any], shape: tuple[int, ...], number: int, t: int) -> dict[str, Any]:
    """Return the fields of an NTNDArray (EPICS normative types 1.0); dimension 0 is the fastest, so the columns."""
    stamp = _stamp(t)
    color_mode = {"name": "ColorMode", "value": 0, "descriptor": "Color mode", "sourceType": 0, "source": "Driver"}
    field = {"|u1": "ubyteValue", "<u2": "ushortValue", "<u4": "uintValue"}[payload.dtype.str]
    return {
        "value": (field, payload),
        "compressedSize": payload.nbytes,
        "uncompressedSize": payload.nbytes,
        "uniqueId": number,
        "timeStamp": stamp,
        "dataTimeStamp": stamp,
        "attribute": [color_mode],
        "dimension": [{"size": size, "offset": 0, "fullSize": size, "binning": 1, "reverse": False} for size in reversed(shape)],
    }


def _scalar(value: Scalar, t: int, unit: str) -> Value:
    number = isinstance(value, float)
    kind = NTScalar("d" if number else "s", display=number)
    fields: dict[str, Any] = {"value": value, "timeStamp": _stamp(t)}
    if number:
        fields["display"] = {"units": unit}
    return Value(kind.type, fields)


def _stamp(t: int) -> dict[str, int]:
    return {"secondsPastEpoch": t // NS, "nanoseconds": t % NS}


def server_conf(port: int) -> dict[str, str]:
    """The configuration of a PV Access server on loopback; port 0: any."""
    return {
        "EPICS_PVAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_PVAS_BEACON_ADDR_LIST": LOOPBACK,
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVAS_SERVER_PORT": str(port),
        "EPICS_PVAS_BROADCAST_PORT": "0",
    }


def client_env(port: int, broadcast_port: int) -> dict[str, str]:
    """What a client of that server puts into its environment."""
    return {
        "EPICS_PVA_ADDR_LIST": f"{LOOPBACK}:{broadcast_port}",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": str(broadcast_port),
        "EPICS_PVA_NAME_SERVERS": f"{LOOPBACK}:{port}",
    }
