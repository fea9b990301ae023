"""`firmware-sim NAME`: one simulated instrument as a process. See `firmware_sim.session` for what it prints and obeys."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

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

Seed = Annotated[int, typer.Option(min=0, help="Same seed, same values.")]
Rate = Annotated[float, typer.Option(min=0.001, max=10_000, help="Ticks per second.")]
Count = Annotated[int, typer.Option(min=0, help="Stop producing after this many items; 0: go on.")]
TruthFile = Annotated[Path | None, typer.Option("--truth", help="Write here what was sent, as JSON lines.")]
Hold = Annotated[bool, typer.Option("--hold", help="Produce only after the line `go` on stdin.")]
Faults = Annotated[list[str] | None, typer.Option("--fault", help="KIND@SECONDS[:ARG] after production began; repeatable.")]
Prefix = Annotated[str, typer.Option(help="Before every PV name, without the colon.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Loopback TCP port; 0: any free one.")]


def main() -> None:
    """Entry point of the command."""
    app()


@app.command()
def balance(
    seed: Seed = 1,
    rate: Rate = 10.0,
    count: Count = 0,
    truth: TruthFile = None,
    hold: Hold = False,
    fault: Faults = None,
    tcp: Annotated[bool, typer.Option("--tcp", help="Serve on a TCP port instead of a pty.")] = False,
    port: Port = 0,
) -> None:
    """Balance speaking Mettler SICS on a pty. Faults: garbage, partial, hang, nan, disconnect."""
    from firmware_sim.balance import Balance

    _run(Balance, lambda options: Balance(options, tcp=tcp, port=port), seed, rate, count, truth, hold, fault)


@app.command()
def furnace(
    seed: Seed = 1,
    rate: Rate = 10.0,
    count: Count = 0,
    truth: TruthFile = None,
    hold: Hold = False,
    fault: Faults = None,
    port: Port = 0,
) -> None:
    """Furnace behind an OPC-UA server. Faults: nan, hang, typechange."""
    from firmware_sim.furnace import Furnace

    _run(Furnace, lambda options: Furnace(options, port=port), seed, rate, count, truth, hold, fault)


@app.command()
def ioc(
    seed: Seed = 1,
    rate: Rate = 10.0,
    count: Count = 0,
    truth: TruthFile = None,
    hold: Hold = False,
    fault: Faults = None,
    prefix: Prefix = "SIM",
    port: Port = 0,
) -> None:
    """Soft IOC over Channel Access; also obeys `shutter open|close` and `set NAME VALUE`. Faults: nan."""
    from firmware_sim.ioc import Ioc

    _run(Ioc, lambda options: Ioc(options, prefix=prefix, port=port), seed, rate, count, truth, hold, fault)


@app.command()
def camera(
    seed: Seed = 1,
    rate: Rate = 20.0,
    count: Count = 0,
    truth: TruthFile = None,
    hold: Hold = False,
    fault: Faults = None,
    prefix: Prefix = "SIM",
    port: Port = 0,
    rows: Annotated[int, typer.Option(min=2, max=8192, help="Height of a frame in pixels.")] = 512,
    columns: Annotated[int, typer.Option(min=2, max=8192, help="Width of a frame in pixels.")] = 512,
) -> None:
    """Area detector over PV Access (NTNDArray). Faults: drop, reset, empty."""
    from firmware_sim.camera import Camera

    make = lambda options: Camera(options, prefix=prefix, shape=(rows, columns), port=port)  # noqa: E731
    _run(Camera, make, seed, rate, count, truth, hold, fault)


@app.command()
def vendor(
    folder: Annotated[Path, typer.Option(help="Where the files go; made if missing.")],
    seed: Seed = 1,
    rate: Rate = 1.0,
    count: Count = 0,
    truth: TruthFile = None,
    hold: Hold = False,
    fault: Faults = None,
) -> None:
    """Vendor program dropping files in a folder. Faults: zero, abandon."""
    from firmware_sim.vendor import Vendor

    _run(Vendor, lambda options: Vendor(options, folder=folder), seed, rate, count, truth, hold, fault)


def _run(
    kind: type[Instrument],
    make: Callable[[Options], Instrument],
    seed: int,
    rate: float,
    count: int,
    truth: Path | None,
    hold: bool,
    fault: list[str] | None,
) -> None:
    """Run one instrument; a start that fails is one line on stderr and exit code 2 (options) or 1."""
    try:
        faults = tuple(parse_fault(text, kind.faults) for text in fault or ())
    except FaultError as e:
        print(f"Error: {e}", file=sys.stderr)
        raise typer.Exit(2) from e
    options = Options(seed=seed, rate=rate, count=count, truth=truth, hold=hold, faults=faults)
    try:
        # The console comes first: whatever a library prints while it starts must not reach the parent's pipe.
        console = Console()
        asyncio.run(_serve(make, options, console))
    except (StartError, OSError) as e:
        print(f"Error: {kind.name}: {e}", file=sys.stderr)
        raise typer.Exit(1) from e


async def _serve(make: Callable[[Options], Instrument], options: Options, console: Console) -> None:
    await serve(make(options), console)


if __name__ == "__main__":
    main()
