"""Digests of uploads that are read while the rest is on its way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edge_agent.wire.item import header_of
from landing.home import Home
from landing.store.ahead import Ahead
from landing.store.incoming import Incoming


def test_a_digest_read_in_parts_is_that_of_the_file_and_is_used_once(tmp_path: Path, sha256: Any) -> None:
    path, ahead, data = tmp_path / "part", Ahead(), os.urandom(3_000_000)
    for end in (0, 1_200_000, 2_500_000):
        path.write_bytes(data[:end])
        ahead.read(path)
    path.write_bytes(data)
    assert ahead.take(path) == (sha256(data), len(data))
    path.write_bytes(b"other bytes")
    assert ahead.take(path) == (sha256(b"other bytes"), 11)


def test_an_upload_that_was_begun_anew_is_read_anew(tmp_path: Path, make_item: Any, sha256: Any) -> None:
    incoming, header = Incoming(Home(tmp_path)), header_of(make_item(b"12345"), b"A" * 16)
    incoming.create(header)
    incoming.write(header, [b"EVIL!"])
    incoming.read_ahead(header)
    incoming.create(header)
    incoming.write(header, [b"12", b"345"])
    assert incoming.digest(header) == (sha256(b"12345"), 5)


def test_what_is_gone_is_no_error_before_its_digest_is_needed(tmp_path: Path, make_item: Any) -> None:
    Incoming(Home(tmp_path)).read_ahead(header_of(make_item(), b"A" * 16))
