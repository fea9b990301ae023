"""One running landing service: the parts put together, both doors open, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import ssl
import sys
from dataclasses import dataclass, field

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.wire.broker import Broker
from edge_agent.wire.memory import keep_freed_memory
from edge_agent.wire.talk import PREFIX
from landing import authority
from landing.catalogue import Catalogue
from landing.checkin import CheckIn
from landing.enrol import Registrar
from landing.home import Home
from landing.https import HttpsDoor, server_context
from landing.judge import Judge, WorkerJudge
from landing.mqtt import MqttDoor
from landing.pages import Pages
from landing.places import open_catalogue, open_store
from landing.receiver import Receiver
from landing.room import Limits, Room
from landing.store import Store
from landing.sweep import sweep
from landing.witness import WitnessBook

BROKER_WAIT = 10.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """Where to listen. Port 0 takes a free one; ``mqtt`` "" opens no second door; ``mqtt_ca`` is a PEM file for ``mqtts://``.

    ``mqtt_share`` is the name of the group of servers that share the broker's messages, "" for one server alone.
    """

    host: str = "127.0.0.1"
    port: int = 0
    mqtt: str = ""
    mqtt_ca: str = ""
    mqtt_topic: str = PREFIX
    mqtt_share: str = ""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts behind the doors."""

    catalogue: Catalogue
    store: Store
    receiver: Receiver
    registrar: Registrar
    book: WitnessBook
    door: HttpsDoor
    root: x509.Certificate

    async def close(self) -> None:
        """Let what is being checked come to its end, then close the catalogue. The doors are shut before."""
        await self.receiver.close()
        self.store.close()
        self.catalogue.close()


def assemble(home: Home, limits: Limits, judge: Judge) -> Service:
    """Put the parts of a landing service together; the caller closes it.

    Raises:
        ConfigError: no landing service in that folder.
    """
    settings = home.load()
    ca = authority.load(home)
    if not authority.server_is_fresh(home):
        authority.renew_server(home, settings, ca)
    signer, receipts_der = authority.receipt_signer(home)
    catalogue = open_catalogue(home)
    store = open_store(home, catalogue)
    room = Room(limits, catalogue, store)
    receiver = Receiver(catalogue, store, room, CheckIn(settings.name, catalogue, store, room, judge, signer))
    book = WitnessBook(catalogue, signer, ca.root)
    registrar = Registrar(ca, catalogue, settings.name, receipts_der)
    pages = Pages(catalogue, store, settings.public) if settings.public else None
    door = HttpsDoor(receiver, registrar, book, limits, settings.name, ca.root.public_bytes(Encoding.PEM).decode(), pages)
    return Service(catalogue, store, receiver, registrar, book, door, ca.root)


async def serve(home: Home, options: Options) -> None:
    """Run until SIGTERM or SIGINT; prints one JSON line when it is ready.

    Raises:
        ConfigError: no landing service in that folder.
        UsageError: another server works in it.
    """
    settings = home.load()
    keep_freed_memory()
    # Several servers may work in copies of the folder, or in the same, when they share the bytes and the catalogue.
    with contextlib.nullcontext() if settings.postgres and settings.s3 else home.lock():
        service = assemble(home, options.limits, WorkerJudge(home.root))
        try:
            broker = None
            if options.mqtt:
                tls = ssl.create_default_context(cafile=options.mqtt_ca) if options.mqtt_ca else None
                where, share = Broker.parse(options.mqtt, tls), options.mqtt_share
                broker = MqttDoor(where, service.receiver, service.book, service.root, options.mqtt_topic, share)
            age = options.limits.upload_age
            sweeping = asyncio.create_task(sweep(service.receiver, age)) if age is not None else None
            try:
                await _run(home, options, service.door, broker)
            finally:
                if sweeping is not None:
                    sweeping.cancel()
                    await asyncio.wait([sweeping])
        finally:
            await service.close()
            # A thread of a request that was cut may still write below the folder: the lock outlives it.
            await asyncio.get_running_loop().shutdown_default_executor()


async def _run(home: Home, options: Options, door: HttpsDoor, broker: MqttDoor | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(door.app(), access_log=None, read_bufsize=1 << 20, shutdown_timeout=5)
    await runner.setup()
    listening = asyncio.create_task(broker.run()) if broker else None
    try:
        context = server_context(str(home.keys / "tls.pem"), str(home.keys / "tls.key"), str(home.root))
        site = web.TCPSite(runner, options.host, options.port, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        shown = f"[{options.host}]" if ":" in options.host else options.host
        url = f"https://{shown}:{port}"
        home.announce(url)
        ready: dict[str, object] = {"ready": "landing", "url": url, "port": port}
        if broker is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BROKER_WAIT):
                    await broker.connected.wait()
            ready["mqtt"] = broker.connected.is_set()
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        if listening is not None:
            listening.cancel()
            await asyncio.wait([listening])
        await runner.cleanup()
