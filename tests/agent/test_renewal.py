from __future__ import annotations

import asyncio
import datetime as dt
import logging
from pathlib import Path
from typing import Any

import pytest

from edge_agent.agent.identity import renew_forever
from edge_agent.deliver.landing import LandingTarget
from edge_agent.deliver.landing_keys import LandingKeys
from edge_agent.enrolment import load_enrolment


@pytest.fixture
async def keys(landing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An identity whose certificate is valid for another hour, of a life that counts from the day before."""
    folder = tmp_path / "ageing"
    with monkeypatch.context() as short:
        short.setattr("landing.authority.CLIENT_LIFE", dt.timedelta(hours=1))
        await landing.enrol(folder)
    return folder


def due(folder: Path) -> bool:
    enrolment = load_enrolment(folder)
    assert enrolment is not None
    return enrolment.due(dt.datetime.now(dt.UTC))


async def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over_and_used_at_once(landing: Any, keys: Path, until: Any) -> None:
    target = LandingTarget("cloud", landing.url, LandingKeys(keys / "root.pem", keys / "tls.pem", keys / "receipts.pem"))
    await target.probe()
    assert due(keys)
    task = asyncio.create_task(renew_forever(keys, 0.05))
    await until(lambda: not due(keys))
    renewed = (keys / "tls.pem").read_bytes()
    await target.probe()
    await target.close()
    await asyncio.sleep(0.15)
    assert (keys / "tls.pem").read_bytes() == renewed, "once is enough"
    task.cancel()
    await asyncio.wait([task])


async def test_a_renewal_that_fails_is_said_and_tried_again_with_the_old_certificate(
    landing: Any, keys: Path, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = (keys / "tls.pem").read_bytes()
    await landing.close()
    task = asyncio.create_task(renew_forever(keys, 0.05))
    await until(lambda: "is not renewed" in caplog.text)
    assert (keys / "tls.pem").read_bytes() == before
    await landing.open()
    await until(lambda: "is renewed" in caplog.text)
    assert not due(keys)
    task.cancel()
    await asyncio.wait([task])
