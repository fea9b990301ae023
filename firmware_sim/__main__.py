"""`firmware-sim NAME`: one simulated instrument as a process. See `firmware_sim.session` for what it prints and obeys."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from firmware_sim.console import Console
from firmware_sim.faults import FaultError, parse_fault
from firmware_sim.instrument import Instrument, Options, StartError
from firmware_sim.session import serve

app = typer.Typer(
    name="firmware-sim",
    no_args_is_help=True,
    add_completion=False,
    help="Simulated instruments on loopback. Each prints one JSON line when it is ready and takes the commands go, stop "
    "and quit on stdin; the end of stdin or SIGTERM ends it.",
)

Make = Callable[[Options], Instrument]
Tcp = Annotated[bool, typer.Option("--tcp", help="Serve on a TCP port instead of a pty.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Loopback TCP port; 0: any free one.")]
Secure = Annotated[bool, typer.Option("--secure", help="Signed and encrypted connections only, with a certificate of its own.")]
Rows = Annotated[int, typer.Option(min=2, max=8192, help="Height of a frame in pixels.")]
Columns = Annotated[int, typer.Option(min=2, max=8192, help="Width of a frame in pixels.")]
Codec = Annotated[Literal["none", "zlib", "lz4", "bslz4", "blosc", "jpeg"], typer.Option(help="How frames are packed on the wire.")]
Prefix = Annotated[str, typer.Option(help="Before every PV name, without the colon.")]


def _common(
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same values.")] = 1,
    rate: Annotated[float, typer.Option(min=0.001, max=10_000, help="Ticks per second.")] = 10.0,
    count: Annotated[int, typer.Option(min=0, help="Stop producing after this many items; 0: go on.")] = 0,
    truth: Annotated[Path | None, typer.Option("--truth", help="Write here what was sent, as JSON lines.")] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Produce only after the line `go` on stdin.")] = False,
    fault: Annotated[list[str] | None, typer.Option("--fault", help="KIND@SECONDS[:ARG] after production began; repeatable.")] = None,
    random_faults: Annotated[
        float, typer.Option("--random-faults", min=0, help="Faults at random, one in so many seconds on average; 0: none.")
    ] = 0.0,
) -> None:
    """What all instruments can be told."""


def instrument(kind: Callable[[], type[Instrument]], **defaults: Any) -> Callable[[Callable[..., Make]], Callable[..., None]]:
    """Make a command of a function that takes an instrument's own options and gives its maker; the common options come first.

    Args:
        kind: imports the instrument's class; only the one that is started is imported.
        defaults: defaults of common options that differ.
    """

    def add(own: Callable[..., Make]) -> Callable[..., None]:
        common = [p.replace(default=defaults.get(p.name, p.default)) for p in _parameters(_common)]
        names = {parameter.name for parameter in common}
        # An option without a default must come before those with one.
        parameters = sorted([*common, *_parameters(own)], key=lambda p: p.default is not inspect.Parameter.empty)

        def command(**given: Any) -> None:
            shared = {name: given.pop(name) for name in names}
            _run(kind(), own(**given), **shared)

        command.__name__, command.__doc__ = own.__name__, own.__doc__
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return app.command()(command)

    return add


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]


def _balance() -> type[Instrument]:
    from firmware_sim.balance import Balance

    return Balance


def _thermostat() -> type[Instrument]:
    from firmware_sim.thermostat import Thermostat

    return Thermostat


def _spectrometer() -> type[Instrument]:
    from firmware_sim.spectrometer import Spectrometer

    return Spectrometer


def _pump() -> type[Instrument]:
    from firmware_sim.pump import Pump

    return Pump


def _furnace() -> type[Instrument]:
    from firmware_sim.furnace import Furnace

    return Furnace


def _lads() -> type[Instrument]:
    from firmware_sim.lads import Incubator

    return Incubator


def _ioc() -> type[Instrument]:
    from firmware_sim.ioc import Ioc

    return Ioc


def _camera() -> type[Instrument]:
    from firmware_sim.camera import Camera

    return Camera


def _vendor() -> type[Instrument]:
    from firmware_sim.vendor import Vendor

    return Vendor


KINDS: dict[str, Callable[[], type[Instrument]]] = {
    "balance": _balance, "thermostat": _thermostat, "spectrometer": _spectrometer, "pump": _pump,
    "furnace": _furnace, "lads": _lads, "ioc": _ioc, "camera": _camera, "vendor": _vendor,
}  # fmt: skip


def main() -> None:
    """Entry point of the command."""
    app()


@instrument(_balance)
def balance(tcp: Tcp = False, port: Port = 0) -> Make:
    """Balance that speaks Mettler SICS on a pty or TCP."""
    from firmware_sim.balance import Balance

    return lambda options: Balance(options, tcp=tcp, port=port)


@instrument(_thermostat)
def thermostat(tcp: Tcp = False, port: Port = 0) -> Make:
    """Temperature controller that speaks SCPI on a pty or TCP."""
    from firmware_sim.thermostat import Thermostat

    return lambda options: Thermostat(options, tcp=tcp, port=port)


@instrument(_spectrometer)
def spectrometer(
    tcp: Tcp = False,
    port: Port = 0,
    pixels: Annotated[int, typer.Option(min=2, max=1 << 20, help="Pixels of a spectrum, 2 bytes each.")] = 2048,
    form: Annotated[Literal["numbered", "bare", "frame"], typer.Option(help="What a block holds: see the documentation.")] = "numbered",
    crc: Annotated[Literal["crc32", "crc16", "none"], typer.Option(help="Checksum at the end of each block.")] = "crc32",
) -> Make:
    """Spectrometer: binary blocks (IEEE 488.2) with a CRC, on a pty or TCP."""
    from firmware_sim.spectrometer import Spectrometer

    return lambda options: Spectrometer(options, form=form, pixels=pixels, crc=crc, tcp=tcp, port=port)


@instrument(_pump)
def pump(tcp: Tcp = False, port: Port = 0) -> Make:
    """Turbomolecular pump: telegrams with a checksum, on a pty or TCP."""
    from firmware_sim.pump import Pump

    return lambda options: Pump(options, tcp=tcp, port=port)


@instrument(_furnace)
def furnace(port: Port = 0, secure: Secure = False) -> Make:
    """Furnace behind an OPC-UA server."""
    from firmware_sim.furnace import Furnace

    return lambda options: Furnace(options, port=port, secure=secure)


@instrument(_lads)
def lads(port: Port = 0, secure: Secure = False) -> Make:
    """Incubator behind an OPC-UA server with a LADS address space (OPC 30500-1)."""
    from firmware_sim.lads import Incubator

    return lambda options: Incubator(options, port=port, secure=secure)


@instrument(_ioc)
def ioc(
    prefix: Prefix = "SIM",
    port: Port = 0,
    camera: Annotated[bool, typer.Option("--camera", help="With a detector below PREFIX:CAM, a frame each tick.")] = False,
    rows: Rows = 512,
    columns: Columns = 512,
    codec: Codec = "none",
) -> Make:
    """Soft IOC over CA and PVA: motor, counters, shutter, with --camera a detector; obeys `shutter open|close`, `set NAME VALUE`."""
    from firmware_sim.ioc import Ioc

    return lambda options: Ioc(options, prefix=prefix, port=port, camera=(rows, columns) if camera else None, codec=codec)


@instrument(_camera, rate=20.0)
def camera(prefix: Prefix = "SIM", port: Port = 0, rows: Rows = 512, columns: Columns = 512, codec: Codec = "none") -> Make:
    """Area detector over PV Access (NTNDArray): Poisson diffraction frames of any size, packed by any codec."""
    from firmware_sim.camera import Camera

    return lambda options: Camera(options, prefix=prefix, shape=(rows, columns), codec=codec, port=port)


@instrument(_vendor, rate=1.0)
def vendor(folder: Annotated[Path, typer.Option(help="Where the files go; made if missing.")]) -> Make:
    """Vendor program dropping files in a folder."""
    from firmware_sim.vendor import Vendor

    return lambda options: Vendor(options, folder=folder)


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="Folder of a landed run.")],
    speed: Annotated[float, typer.Option(min=0.001, max=10_000, help="How many times as fast as it was.")] = 1.0,
    instrument: Annotated[list[str] | None, typer.Option(help="Only this instrument; repeatable.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where vendor files go.")] = None,
    truth: Annotated[Path | None, typer.Option("--truth", help="Write here what was sent, as JSON lines.")] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Play only after the line `go` on stdin.")] = False,
) -> None:
    """Play a landed run back over its original protocols."""
    from firmware_sim.replay.player import Replay

    def make(options: Options) -> Instrument:
        return Replay(options, run=run, speed=speed, instruments=tuple(instrument or ()), folder=folder)

    _run(Replay, make, seed=0, rate=10_000, count=0, truth=truth, hold=hold, fault=None, random_faults=0.0)


@app.command()
def faults() -> None:
    """Which instrument knows which fault, and what it does there."""
    for name, kind in KINDS.items():
        print(name)
        for fault, what in kind().faults.items():
            print(f"  {fault:<12} {what}")


def _run(
    kind: type[Instrument],
    make: Make,
    *,
    seed: int,
    rate: float,
    count: int,
    truth: Path | None,
    hold: bool,
    fault: list[str] | None,
    random_faults: float,
) -> None:
    """Run one instrument; a start that fails is one line on stderr and exit code 2 (options) or 1."""
    try:
        listed = tuple(parse_fault(text, kind.faults) for text in fault or ())
    except FaultError as e:
        print(f"Error: {e}", file=sys.stderr)
        raise typer.Exit(2) from e
    options = Options(seed, rate, count, truth, hold, listed, random_faults)
    try:
        # The console comes first: whatever a library prints while it starts must not reach the parent's pipe.
        console = Console()
        asyncio.run(_serve(make, options, console))
    except (StartError, OSError) as e:
        print(f"Error: {kind.name}: {e}", file=sys.stderr)
        raise typer.Exit(1) from e


async def _serve(make: Make, options: Options, console: Console) -> None:
    await serve(make(options), console)


if __name__ == "__main__":
    main()
