"""The ways of `benchmarks.upload`, each in a process of its own: ``python -m benchmarks.upload_ways WAY JSON`` prints what it found.

The clock runs from the first call until there is a proof that the other side has the bytes: ours for the receipt, the others' until they
say that they are done. The processor time is that of whoever sends, all threads.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import resource
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Impossible, high_water_mb, peak_mb
from benchmarks.upload_servers import BUCKET, PROJECT, Servers
from edge_agent.deliver.landing import LandingTarget
from edge_agent.deliver.landing_keys import LandingKeys
from edge_agent.deliver.mqtt import MESSAGE, MqttTarget, Speaker
from edge_agent.deliver.s3 import S3Target
from edge_agent.deliver.s3_store import Place
from edge_agent.deliver.target import Target
from edge_agent.enrolment.identity import load_enrolment, open_identity
from edge_agent.model import Access, ItemKind, Label, OutboxItem
from edge_agent.record.session import new_session
from edge_agent.wire.broker import Broker
from edge_agent.wire.item import header_of
from edge_agent.wire.tls import client_context
from tests.weed import KEYS

PART = 16 << 20
"""Bytes: what ``part`` is by default, see docs/targets.md."""
Ended = tuple[float, float, float]
"""Seconds, seconds of processor time, MB."""


class Memo:
    """Of one process."""

    def __init__(self) -> None:
        self._pairs: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        """See `edge_agent.deliver.target.Memo`."""
        self._pairs[key] = value

    def delete(self, key: str) -> None:
        """See `edge_agent.deliver.target.Memo`."""
        self._pairs.pop(key, None)

    def under(self, prefix: str) -> dict[str, bytes]:
        """See `edge_agent.deliver.target.Memo`."""
        return {key: value for key, value in self._pairs.items() if key.startswith(prefix)}


def cpu() -> float:
    """Seconds of processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def item_of(path: Path) -> OutboxItem:
    """A file as it waits in the outbox, under a name that is nowhere yet."""
    name = uuid.uuid4().hex
    label = Label(Access.CLOSED, frozenset({"cloud"}))
    return OutboxItem(
        name, ItemKind.FILE, path, f"{PROJECT}/bl/2026-01-01/000001/{name}.h5", path.stat().st_size, b"R" * 16, 1, PROJECT, label
    )


async def ours(target: Target, path: Path) -> Ended:
    """One item through a target of the agent."""
    await target.probe()
    item = item_of(path)
    try:
        began, used = time.monotonic(), cpu()
        await target.send(item, lambda _: None)
        return time.monotonic() - began, cpu() - used, peak_mb()
    finally:
        await target.close()


def s3(there: Servers, path: Path) -> Ended:
    """The agent's S3 target, as it is configured by default."""
    place = Place(there.s3, BUCKET, "us-east-1", "", True, there.root)
    return asyncio.run(ours(S3Target("cloud", place, lambda: KEYS, Memo(), part=PART), path))


def _keys(there: Servers) -> LandingKeys:
    enrolment = load_enrolment(Path(there.identity))
    if enrolment is None:
        raise Impossible("the agent is not enrolled")
    return LandingKeys(enrolment.root, enrolment.tls, enrolment.receipts)


def https(there: Servers, path: Path) -> Ended:
    """The agent's HTTPS target."""
    return asyncio.run(ours(LandingTarget("cloud", there.landing, _keys(there)), path))


def mqtt(there: Servers, path: Path) -> Ended:
    """The agent's MQTT target."""
    identity, keys = open_identity(Path(there.identity)), _keys(there)
    session = new_session(identity.agent_id, identity.key, (identity.certificate,), 1)
    speaker = Speaker(session.key, session.chain)
    broker = Broker.parse(there.broker, client_context(Path(there.root).read_text()))

    async def run() -> Ended:
        return await ours(MqttTarget("cloud", broker, identity.agent_id, lambda: speaker, lambda: keys.trust("cloud")), path)

    return asyncio.run(run())


def boto3(there: Servers, path: Path) -> Ended:
    """boto3's transfer manager, as it is by default."""
    import boto3 as sdk

    client = sdk.client(
        "s3", endpoint_url=there.s3, region_name="us-east-1", verify=there.root, aws_access_key_id=KEYS[0], aws_secret_access_key=KEYS[1]
    )
    client.head_bucket(Bucket=BUCKET)
    began, used = time.monotonic(), cpu()
    client.upload_file(str(path), BUCKET, uuid.uuid4().hex)
    return time.monotonic() - began, cpu() - used, peak_mb()


def rclone(there: Servers, path: Path) -> Ended:
    """``rclone copyto``, as it is by default."""
    env = {
        # Nothing of the environment: a certificate bundle that it names for AWS stops rclone.
        "PATH": os.environ["PATH"], "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_W_TYPE": "s3", "RCLONE_CONFIG_W_PROVIDER": "SeaweedFS", "RCLONE_CONFIG_W_ENDPOINT": there.s3,
        "RCLONE_CONFIG_W_ACCESS_KEY_ID": KEYS[0], "RCLONE_CONFIG_W_SECRET_ACCESS_KEY": KEYS[1], "RCLONE_CONFIG_W_REGION": "us-east-1",
    }  # fmt: skip
    return command(["rclone", "copyto", str(path), f"W:{BUCKET}/{uuid.uuid4().hex}", "--ca-cert", there.root, "-q"], env)


def curl(there: Servers, path: Path) -> Ended:
    """One PATCH of the whole file by curl, its digest known before, and the question for the receipt."""
    keys = _keys(there)
    identity = open_identity(Path(there.identity))
    sha256 = hashlib.sha256(path.read_bytes()).digest()
    header = header_of(item_of(path), identity.agent_id).with_digest(sha256)
    said, url = base64.b64encode(header.encode()).decode(), f"{there.landing}/files/"
    base = ["curl", "-sS", "--fail", "--cacert", there.root, "--cert", str(keys.certificate), "-o", os.devnull]
    tus = ["-H", "Tus-Resumable: 1.0.0"]
    made = [*base, *tus, "-X", "POST", "-H", f"Upload-Length: {header.size}", "-H", f"Upload-Metadata: item {said}", url]
    command(made)
    place = f"{url}{header.item_id}"
    digest = f"Repr-Digest: sha-256=:{base64.b64encode(sha256).decode()}:"
    patch = ["-X", "PATCH", "-T", str(path), "-H", "Content-Type: application/offset+octet-stream", "-H", "Upload-Offset: 0", "-H", digest]
    return command([*base, *tus, *patch, place, "--next", *base[1:], f"{place}/receipt"])


def paho(there: Servers, path: Path) -> Ended:
    """A publisher with nothing but paho: QoS 1, pieces of our size, until a subscriber has them all and every one is acknowledged."""
    done, topic = threading.Event(), f"bench/{uuid.uuid4().hex}"
    sizes = [min(MESSAGE, path.stat().st_size - at) for at in range(0, path.stat().st_size, MESSAGE)]
    sink = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.upload_ways", "sink", json.dumps([there.broker, there.root, topic, len(sizes)])],
        stdout=subprocess.PIPE,
    )
    assert sink.stdout is not None
    try:
        if sink.stdout.readline().strip() != b"ready":
            raise Impossible("the subscriber does not start")
        client = _client(there.broker, there.root)
        left = len(sizes)

        def acked(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done.set()

        client.on_publish = acked
        client.loop_start()
        began, used = time.monotonic(), cpu()
        with path.open("rb") as file:
            for size in sizes:
                client.publish(topic, file.read(size), qos=1)
        done.wait()
        sink.stdout.readline()
        ended = time.monotonic() - began, cpu() - used, peak_mb()
        client.disconnect()
        client.loop_stop()
        return ended
    finally:
        sink.stdout.close()
        sink.wait()


def _client(url: str, root: str) -> Any:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    broker = Broker.parse(url, ssl.create_default_context(cafile=root))
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    assert broker.tls is not None
    client.tls_set_context(broker.tls)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect(broker.host, broker.port)
    client.loop_start()
    if not connected.wait(20):
        raise Impossible("no connection to the broker")
    return client


def sink(url: str, root: str, topic: str, n: int) -> None:
    """Take ``n`` messages and do nothing with them."""
    client, ready, done = _client(url, root), threading.Event(), threading.Event()
    left = n

    def heard(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    client.on_message = heard
    client.on_subscribe = lambda *_: ready.set()
    client.subscribe(topic, 1)
    ready.wait()
    print("ready", flush=True)
    done.wait()
    print("done", flush=True)
    client.disconnect()


def command(words: list[str], env: dict[str, str] | None = None) -> Ended:
    """Run a program, and look at its memory while it runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, peak = time.monotonic(), 0.0
    with subprocess.Popen(words, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, high_water_mb(process.pid))
            time.sleep(0.005)
        seconds = time.monotonic() - began
        if process.returncode != 0:
            raise Impossible(f"{words[0]}: {process.stderr.read().decode() if process.stderr else ''}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


WAYS: dict[str, Callable[[Servers, Path], Ended]] = {
    "s3": s3, "boto3": boto3, "rclone": rclone, "https": https, "curl": curl, "mqtt": mqtt, "paho": paho,
}  # fmt: skip


def main() -> int:
    """One way."""
    way, said = sys.argv[1], json.loads(sys.argv[2])
    if way == "sink":
        sink(*said)
        return 0
    path = Path(said.pop("file"))
    seconds, used, memory = WAYS[way](Servers(**said), path)
    size = path.stat().st_size
    print(json.dumps({"mb_per_s": size / 1e6 / seconds, "cpu_ns_per_byte": used * 1e9 / size, "rss_peak_mb": memory}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
