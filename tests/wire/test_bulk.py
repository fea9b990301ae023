"""The socket that paho gets, over real TLS."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.wire.bulk import BulkSocket
from edge_agent.wire.tls import client_context

RECORD = 16 << 10


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a client and of a server that it trusts."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("here")]), critical=False)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file: Path = tmp_path_factory.mktemp("tls") / "pem"
    file.write_bytes(pem + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = client_context(pem.decode())
    client.sslsocket_class = BulkSocket
    return client, server


@pytest.fixture
def pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[tuple[BulkSocket, ssl.SSLSocket]]:
    """Ours, which does not block, and a plain one that does."""
    left, right = socket.socketpair()
    accepted: list[ssl.SSLSocket] = []
    accepting = threading.Thread(target=lambda: accepted.append(contexts[1].wrap_socket(right, server_side=True)))
    accepting.start()
    ours = contexts[0].wrap_socket(left, server_hostname="here")
    accepting.join()
    assert isinstance(ours, BulkSocket)
    ours.setblocking(False)
    with ours, accepted[0]:
        yield ours, accepted[0]


def test_what_has_arrived_is_taken_in_one_call_and_no_byte_more_than_was_asked_for(pair: tuple[BulkSocket, ssl.SSLSocket]) -> None:
    ours, theirs = pair
    with pytest.raises(ssl.SSLWantReadError):
        ours.recv(1 << 20)
    data = os.urandom(5 * RECORD)
    theirs.sendall(data)
    assert ours.recv(1) == data[:1]
    assert ours.recv(3 * RECORD) == data[1 : 3 * RECORD + 1]
    assert ours.recv(1 << 20) == data[3 * RECORD + 1 :]
    with pytest.raises(ssl.SSLWantReadError):
        ours.recv(1 << 20)


def test_the_end_is_an_empty_block_after_what_came_before_it(pair: tuple[BulkSocket, ssl.SSLSocket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"x" * 2 * RECORD)
    theirs.shutdown(socket.SHUT_WR)
    assert ours.recv(1 << 20) == b"x" * 2 * RECORD
    assert ours.recv(1 << 20) == b""
