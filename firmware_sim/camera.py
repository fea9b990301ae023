"""An area detector over PV Access (p4p server): NTNDArray frames as areaDetector's NDPluginPva sends them.

Invariants: `timeStamp` and `dataTimeStamp` of a frame are the truth's `t`; uniqueId rises by one per exposure, from 1,
also for exposures that a fault drops; before the first frame the PV holds an empty array, like real servers. The
frame number inside the pixels counts exposures and does not restart with uniqueId.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
from p4p import Value
from p4p.nt import NTNDArray, NTScalar
from p4p.server import Server
from p4p.server.thread import SharedPV

from firmware_sim.faults import Fault
from firmware_sim.frames import Frame, FrameSource
from firmware_sim.instrument import Instrument, Options, Presence, StartError
from firmware_sim.loopback import LOOPBACK, confine_datagrams
from firmware_sim.truth import Protocol, Scalar

NS: Final = 1_000_000_000
IMAGE: Final = "Pva1:Image"


class Camera(Instrument):
    """`firmware-sim camera`. Ready line: `prefix`, `pv` (the image), `port`, `broadcast_port`, `env` for clients."""

    name = "camera"
    model = "Simulated detector"
    protocol: ClassVar[Protocol] = "pva"
    main_stream = "image"
    units: ClassVar[Mapping[str, str]] = {
        "image": "counts", "AcquireTime_RBV": "s", "Manufacturer_RBV": "", "Model_RBV": "", "SerialNumber_RBV": "",
    }  # fmt: skip
    rate = 20.0
    faults: ClassVar[Mapping[str, str]] = {
        "drop": "the next ARG (3) exposures get a uniqueId and are never sent",
        "reset": "uniqueId starts again at 1",
        "empty": "one update with an array of no elements and uniqueId 0; no exposure",
    }

    def __init__(self, options: Options, *, prefix: str = "SIM", shape: tuple[int, int] = (512, 512), port: int = 0) -> None:
        super().__init__(options)
        self._prefix = prefix
        self._shape = shape
        self._port = port
        self._frames = FrameSource(self.rng, shape)
        self._type = NTNDArray.buildType()
        self._image: SharedPV | None = None
        self._server: Server | None = None
        self._presence = Presence()
        self._exposures = 0
        self._unique_id = 0

    async def open(self) -> Mapping[str, Any]:
        """Serve the image, empty, and the camera's scalars."""
        loop = asyncio.get_running_loop()
        seen = self._presence.seen

        class Handler:
            def onFirstConnect(self, _pv: SharedPV) -> None:  # p4p's name
                loop.call_soon_threadsafe(seen)

        self._image = SharedPV(handler=Handler(), initial=Value(self._type, {}))
        pvs = {f"{self._prefix}:{IMAGE}": self._image}
        scalars: dict[str, Scalar] = {
            "AcquireTime_RBV": 1.0 / self.options.rate,
            "Manufacturer_RBV": "firmware-sim",
            "Model_RBV": self.model,
            "SerialNumber_RBV": f"C{self.options.seed:06d}",
        }
        for name, value in scalars.items():
            t = self.truth.now()
            self.truth.initial(name, t, value)
            pvs[f"{self._prefix}:cam1:{name}"] = SharedPV(initial=_scalar(value, t, self.units[name]))
        self._server = Server(providers=[pvs], useenv=False, conf=_server_conf(self._port))
        confine_datagrams()
        conf = self._server.conf()
        port, broadcast_port = conf["EPICS_PVAS_SERVER_PORT"], conf["EPICS_PVAS_BROADCAST_PORT"]
        if self._port not in (0, int(port)):
            raise StartError(f"port {self._port} is taken (pvxs took {port} instead); choose another --port or leave it out")
        env = {
            "EPICS_PVA_ADDR_LIST": f"{LOOPBACK}:{broadcast_port}",
            "EPICS_PVA_AUTO_ADDR_LIST": "NO",
            "EPICS_PVA_BROADCAST_PORT": broadcast_port,
            "EPICS_PVA_NAME_SERVERS": f"{LOOPBACK}:{port}",
        }
        addresses = {"prefix": self._prefix, "pv": f"{self._prefix}:{IMAGE}", "port": int(port)}
        return {**addresses, "broadcast_port": int(broadcast_port), "shape": list(self._shape), "env": env}

    async def client_present(self) -> None:
        """Return when a client has connected to the image."""
        await self._presence.settled()

    async def tick(self) -> None:
        """Take and send one frame."""
        self._expose(send=True)

    async def inject(self, fault: Fault, at: float) -> None:
        """Do to the stream of frames what `faults` says."""
        if fault.kind == "reset":
            self.truth.fault(fault.kind, at, fault.arg, last_unique_id=self._unique_id)
            self._unique_id = 0
        elif fault.kind == "empty":
            self.truth.fault(fault.kind, at, fault.arg)
            # A union that holds an array cannot become unset again, so the array has no elements.
            self._post({"value": ("ushortValue", np.zeros(0, "<u2")), "uniqueId": 0, "dimension": []})
        else:
            count = int(fault.number(3))
            self.truth.fault(fault.kind, at, fault.arg, first_unique_id=self._unique_id + 1, count=count)
            for _ in range(count):
                self._expose(send=False)

    async def close(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.stop()

    def _expose(self, *, send: bool) -> None:
        self._exposures += 1
        self._unique_id += 1
        frame = self._frames.frame(self._exposures)
        t = self.truth.now()
        self.truth.item(
            "image",
            t,
            sha256=hashlib.sha256(frame.data).hexdigest(),
            shape=self._shape,
            dtype="uint16",
            unique_id=self._unique_id,
            dropped=not send,
        )
        if send:
            self._post(_nd_array(frame, self._unique_id, t))

    def _post(self, fields: Mapping[str, Any]) -> None:
        if self._image is None:
            raise RuntimeError("the camera is not open")
        self._image.post(Value(self._type, fields))


def _nd_array(frame: Frame, unique_id: int, t: int) -> dict[str, Any]:
    """Return the fields of an NTNDArray (EPICS normative types 1.0); dimension 0 is the fastest, so the columns."""
    stamp = _stamp(t)
    color_mode = {"name": "ColorMode", "value": 0, "descriptor": "Color mode", "sourceType": 0, "source": "Driver"}
    return {
        "value": ("ushortValue", frame.ravel()),
        "compressedSize": frame.nbytes,
        "uncompressedSize": frame.nbytes,
        "uniqueId": unique_id,
        "timeStamp": stamp,
        "dataTimeStamp": stamp,
        "attribute": [color_mode],
        "dimension": [{"size": size, "offset": 0, "fullSize": size, "binning": 1, "reverse": False} for size in reversed(frame.shape)],
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


def _server_conf(port: int) -> dict[str, str]:
    return {
        "EPICS_PVAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_PVAS_BEACON_ADDR_LIST": LOOPBACK,
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVAS_SERVER_PORT": str(port),
        "EPICS_PVAS_BROADCAST_PORT": "0",
    }
