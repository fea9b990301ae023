"""Uploads over HTTPS: from the outbox to a project space, with a receipt that is believed; and everything that may come between."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import Access, ItemKind, Label, Proof
from edge_agent.seal import cose
from edge_agent.seal.receipt import parse_custody
from edge_agent.wire.item import header_of
from edge_agent.wire.refusal import Code, Refused
from landing.judge import Verdict
from landing.room import Limits


async def test_a_file_lands_under_its_name_with_a_custody_that_proves_it(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], sha256: Any
) -> None:
    await site.open()
    agent = await enrolled()
    data = os.urandom(10_000_000)
    item = make_item(data)
    receipt = await agent.https().send(item, progress.append)
    assert (site.home.space / item.remote).read_bytes() == data
    assert (receipt.proof, receipt.sha256, receipt.size, receipt.item_id) == (Proof.FSYNCED, sha256(data), len(data), "item-1")
    custody = parse_custody(cose.parse(receipt.cose).payload)
    assert (custody.path, custody.store, custody.durable, custody.agent_id) == (item.remote, "Test site", "fsynced", agent.agent_id)
    assert progress[-1] == len(data)
    assert progress == sorted(progress)
    assert not list(site.home.incoming.rglob("*.*"))


async def test_an_empty_file_lands_too(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    await site.open()
    item = make_item(b"")
    receipt = await (await enrolled()).https().send(item, progress.append)
    assert receipt.size == 0
    assert (site.home.space / item.remote).read_bytes() == b""


async def test_sending_the_same_item_again_gives_the_same_custody(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    await site.open()
    target = (await enrolled()).https()
    item = make_item()
    first = await target.send(item, progress.append)
    again = await target.send(item, progress.append)
    assert first.cose == again.cose


@pytest.mark.expects_errors
@pytest.mark.parametrize("folder", [False, True], ids=["the file", "its folder"])
async def test_a_stored_file_that_is_gone_is_taken_again(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], caplog: pytest.LogCaptureFixture, folder: bool
) -> None:
    await site.open()
    target, item = (await enrolled()).https(), make_item()
    await target.send(item, progress.append)
    stored = site.home.space / item.remote
    stored.unlink()
    if folder:
        stored.parent.rmdir()
        stored.parent.write_bytes(b"")
        with pytest.raises(IntegrityError, match="is taken"):
            await target.send(item, progress.append)
        stored.parent.unlink()
    assert (await target.send(item, progress.append)).proof is Proof.FSYNCED
    assert stored.read_bytes() == item.path.read_bytes()
    assert [f"{item.remote} is gone" in record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [True]


@pytest.mark.expects_errors
async def test_every_question_about_an_item_whose_file_is_gone_is_answered_as_if_it_had_never_come(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], sha256: Any
) -> None:
    service = await site.open()
    agent = await enrolled()
    receiver, item = service.receiver, make_item()
    questions = (
        lambda: receiver.status(agent.agent_id, item.item_id),
        lambda: receiver.receipt(agent.agent_id, item.item_id, None),
        lambda: receiver.finish(agent.agent_id, item.item_id, sha256(item.path.read_bytes())),
        lambda: receiver.pieces(agent.agent_id, item.item_id, item.size, [b""]),
    )
    for ask in questions:
        await agent.https().send(item, progress.append)
        (site.home.space / item.remote).unlink()
        with pytest.raises(Refused) as refused:
            await ask()
        assert refused.value.refusal.code is Code.NOT_FOUND
        assert service.catalogue.at(item.remote) is None
    assert await receiver.create(agent.agent_id, header_of(item, agent.agent_id)) == 0


@pytest.mark.expects_errors
async def test_a_stored_file_of_another_length_is_not_held_and_stays_for_the_operator(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    await site.open()
    target, item = (await enrolled()).https(), make_item()
    await target.send(item, progress.append)
    stored = site.home.space / item.remote
    os.truncate(stored, 7)
    with pytest.raises(IntegrityError, match="is taken"):
        await target.send(item, progress.append)
    assert any(f"{item.remote} has 7 bytes, where {item.size}" in record.getMessage() for record in caplog.records)
    assert stored.stat().st_size == 7
    assert [path.read_bytes() for path in site.home.refused.rglob("item-1.*") if path.suffix != ".json"] == [item.path.read_bytes()]
    stored.unlink()
    await target.send(item, progress.append)
    assert stored.read_bytes() == item.path.read_bytes()


async def test_receipts_that_grew_since_do_not_make_the_earlier_ones_missing(
    site: Any, enrolled: Any, make_item: Any, progress: list[int]
) -> None:
    await site.open()
    target = (await enrolled()).https()
    remote = "demo-project/beamline/2026-11-24/000001/000001.receipts"
    first = make_item(b"one", item_id="r0", kind=ItemKind.RECEIPTS, remote=remote)
    custody = (await target.send(first, progress.append)).cose
    await target.send(make_item(b"one two", item_id="r1", kind=ItemKind.RECEIPTS, remote=remote), progress.append)
    assert (await target.send(first, progress.append)).cose == custody
    assert (site.home.space / remote).read_bytes() == b"one two"


async def test_the_same_bytes_under_another_item_id_are_no_clash(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    await site.open()
    target = (await enrolled()).https()
    first = make_item(item_id="a")
    await target.send(first, progress.append)
    again = make_item(item_id="b", remote=first.remote)
    assert (await target.send(again, progress.append)).size == first.size


async def test_other_bytes_under_a_taken_name_are_refused_and_kept(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    await site.open()
    target = (await enrolled()).https()
    first = make_item(b"first", item_id="a")
    await target.send(first, progress.append)
    with pytest.raises(IntegrityError, match="is taken") as error:
        await target.send(make_item(b"second", item_id="b", remote=first.remote), progress.append)
    assert error.value.code == "LANDING_CLASH"
    assert "other bytes" in error.value.why
    assert error.value.try_
    assert (site.home.space / first.remote).read_bytes() == b"first"
    kept = [path.read_bytes() for path in site.home.refused.rglob("b.*") if path.suffix != ".json"]
    assert kept == [b"second"]


async def test_a_file_cannot_become_the_folder_of_another(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    await site.open()
    target = (await enrolled()).https()
    first = make_item(b"x", item_id="a", remote="demo-project/beamline/2026-11-24/000001/files/a.dat")
    await target.send(first, progress.append)
    with pytest.raises(IntegrityError, match="is taken"):
        await target.send(make_item(b"y", item_id="b", remote=first.remote + "/below"), progress.append)
    with pytest.raises(IntegrityError, match="is taken"):
        await target.send(make_item(b"y", item_id="c", remote=str(Path(first.remote).parent)), progress.append)


async def test_receipts_files_may_be_replaced(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    await site.open()
    target = (await enrolled()).https()
    remote = "demo-project/beamline/2026-11-24/000001/000001.receipts"
    for number, data in enumerate((b"one", b"one two")):
        await target.send(make_item(data, item_id=f"r{number}", kind=ItemKind.RECEIPTS, remote=remote), progress.append)
    assert (site.home.space / remote).read_bytes() == b"one two"


async def test_there_is_no_receipt_as_long_as_the_final_name_is_not_durable(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(5, "Input/output error")

    await site.open()
    target, item = (await enrolled()).https(), make_item()
    with monkeypatch.context() as patch:
        patch.setattr("landing.store.space.sync_folder", refuse)
        for _ in range(2):
            with pytest.raises(TargetUnreachable, match="disk has a fault"):
                await target.send(item, progress.append)
    assert (site.home.space / item.remote).exists()
    assert (await target.send(item, progress.append)).proof is Proof.FSYNCED


@pytest.mark.parametrize("name", ["000001.hsc", "000001.receipts"])
async def test_what_another_agent_put_there_is_never_replaced_by_receipts(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], name: str
) -> None:
    await site.open()
    remote = f"demo-project/beamline/2026-11-24/000001/{name}"
    kind = ItemKind.RECEIPTS if name.endswith("receipts") else ItemKind.SIDECAR
    await (await enrolled("one")).https().send(make_item(b"the only copy", item_id="a", kind=kind, remote=remote), progress.append)
    other = make_item(b"of a namesake", item_id="b", kind=ItemKind.RECEIPTS, remote=remote)
    with pytest.raises(IntegrityError, match="is taken"):
        await (await enrolled("two")).https().send(other, progress.append)
    assert (site.home.space / remote).read_bytes() == b"the only copy"


@pytest.mark.parametrize("name", ["000001.nxs", "files/a.receipts"])
async def test_only_receipts_are_replaced_by_receipts(site: Any, enrolled: Any, make_item: Any, progress: list[int], name: str) -> None:
    await site.open()
    target = (await enrolled()).https()
    remote = f"demo-project/beamline/2026-11-24/000001/{name}"
    await target.send(make_item(b"the only copy", item_id="a", kind=ItemKind.FILE, remote=remote), progress.append)
    with pytest.raises(IntegrityError, match="is taken"):
        await target.send(make_item(b"other", item_id="b", kind=ItemKind.RECEIPTS, remote=remote), progress.append)
    assert (site.home.space / remote).read_bytes() == b"the only copy"


async def test_a_segment_lands_when_the_judge_finds_what_was_announced(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], good_verdict: Any
) -> None:
    service = await site.open()
    agent = await enrolled()
    item = make_item(kind=ItemKind.SEGMENT)
    site.judge.verdict = good_verdict(item, agent.agent_id)
    receipt = await agent.https().send(item, progress.append)
    custody = parse_custody(cose.parse(receipt.cose).payload)
    assert (custody.segment_id, custody.head) == (item.segment_id, item.head_hash)
    assert service.catalogue.item(agent.agent_id, "item-1").level == 2


async def test_a_segment_that_does_not_verify_is_refused_with_the_reason_and_kept(
    site: Any, enrolled: Any, make_item: Any, progress: list[int]
) -> None:
    await site.open()
    target = (await enrolled()).https()
    item = make_item(kind=ItemKind.SEGMENT)
    site.judge.verdict = Verdict(0, "camera/image: chunk (3, 0, 0) has another hash")
    with pytest.raises(IntegrityError, match="does not verify") as error:
        await target.send(item, progress.append)
    assert error.value.code == "LANDING_SEGMENT"
    assert "chunk (3, 0, 0) has another hash" in error.value.why
    kept = sorted(site.home.refused.rglob("item-1.*"))
    assert kept[0].read_bytes() == item.path.read_bytes()
    assert "chunk (3, 0, 0)" in json.loads(kept[1].read_text())["why"]
    assert not (site.home.space / item.remote).exists()


async def test_a_refused_segment_may_be_sent_again_once_its_cause_is_gone(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], good_verdict: Any
) -> None:
    await site.open()
    agent = await enrolled()
    target = agent.https()
    item = make_item(kind=ItemKind.SEGMENT)
    site.judge.verdict = Verdict(1, "the key is not known")
    with pytest.raises(IntegrityError):
        await target.send(item, progress.append)
    site.judge.verdict = good_verdict(item, agent.agent_id)
    assert (await target.send(item, progress.append)).size == item.size


@pytest.mark.parametrize("fact", ["segment_id", "head", "agent_id", "run_id", "policy"])
async def test_a_segment_that_is_not_the_announced_one_is_refused(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], good_verdict: Any, fact: str
) -> None:
    await site.open()
    agent = await enrolled()
    item = make_item(kind=ItemKind.SEGMENT)
    site.judge.verdict = good_verdict(item, agent.agent_id, **{fact: b"?" * 16})
    with pytest.raises(IntegrityError, match="not the one that was announced") as error:
        await agent.https().send(item, progress.append)
    assert error.value.code == "LANDING_FACTS"
    assert b"?".hex() * 16 in error.value.why


@pytest.mark.expects_errors
async def test_a_judge_that_breaks_leaves_the_upload_for_later(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], good_verdict: Any
) -> None:
    await site.open()
    agent = await enrolled()
    target = agent.https()
    item = make_item(kind=ItemKind.SEGMENT)
    site.judge.verdict = ValueError("a bug")
    with pytest.raises(TargetUnreachable):
        await target.send(item, progress.append)
    site.judge.verdict = good_verdict(item, agent.agent_id)
    progress.clear()
    await target.send(item, progress.append)
    assert progress == [item.size]  # nothing was sent twice


async def test_kill_9_of_the_landing_in_the_middle_loses_nothing_and_the_upload_goes_on(
    site: Any, enrolled: Any, make_item: Any, sha256: Any
) -> None:
    server = await site.start()
    agent = await enrolled()
    data = os.urandom(6 << 20)
    item = make_item(data)
    target = agent.https(piece=1 << 20)
    half = asyncio.Event()
    sending = asyncio.create_task(target.send(item, lambda sent: half.set() if sent >= 2 << 20 else None))
    await half.wait()
    await server.kill()
    with pytest.raises(TargetUnreachable) as error:
        await sending
    assert error.value.why
    assert error.value.try_
    [part] = site.home.incoming.rglob("*.part")
    stored = part.stat().st_size
    assert 2 << 20 <= stored < len(data)
    assert data.startswith(part.read_bytes())
    await site.start(port=server.port)
    progress: list[int] = []
    receipt = await target.send(item, progress.append)
    assert progress[0] >= 2 << 20
    assert receipt.sha256 == sha256(data)
    assert (site.home.space / item.remote).read_bytes() == data


async def test_a_landing_killed_between_the_last_byte_and_the_receipt_gives_the_receipt_later(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], sha256: Any
) -> None:
    service = await site.open()
    agent = await enrolled()
    item = make_item()

    async def whole() -> Any:
        yield item.path.read_bytes()

    core = service.receiver
    await core.create(agent.agent_id, header_of(item, agent.agent_id))
    await core.append(agent.agent_id, item.item_id, 0, whole())
    await core.finish(agent.agent_id, item.item_id, sha256(item.path.read_bytes()))
    # the crash: the file has its final name already, the catalogue does not know it
    [part] = site.home.incoming.rglob("*.part")
    final = site.home.space / item.remote
    final.parent.mkdir(parents=True)
    part.rename(final)
    fresh = site.url
    await site.open()
    assert site.url != fresh
    receipt = await agent.https(site.url).send(item, progress.append)
    assert receipt.sha256 == sha256(item.path.read_bytes())


async def test_a_spool_file_that_shrank_is_not_sent_as_if_it_were_whole(
    site: Any, enrolled: Any, make_item: Any, progress: list[int]
) -> None:
    await site.open()
    item = make_item(b"x" * 1000)
    item.path.write_bytes(b"x" * 500)
    with pytest.raises(IntegrityError, match="changed in the spool") as error:
        await (await enrolled()).https().send(item, progress.append)
    assert "ends at 500 of 1000" in error.value.why


async def test_a_spool_file_with_another_digest_than_the_outbox_knows_is_stopped(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], sha256: Any
) -> None:
    await site.open()
    item = make_item(b"x" * 1000, sha256=sha256(b"y" * 1000))
    with pytest.raises(IntegrityError, match="changed in the spool"):
        await (await enrolled()).https().send(item, progress.append)
    assert not (site.home.space / item.remote).exists()


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../../etc/passwd",
        "a/../../b",
        "",
        "a//b",
        "con",
        "COM1.h5",
        "a\0b",
        "a\nb",
        "a:b",
        "a\\b",
        "trailing.",
        "trailing ",
        "\u202egnp.exe",
        "e\u0301",
        "x" * 300,
    ],
)
async def test_names_that_are_no_names_never_leave_and_are_never_taken(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], name: str
) -> None:
    await site.open()
    item = make_item(remote=f"demo-project/beamline/2026-11-24/000001/{name}")
    with pytest.raises(IntegrityError, match="cannot be stored") as error:
        await (await enrolled()).https().send(item, progress.append)
    assert error.value.why
    assert error.value.try_
    assert not list(site.home.space.rglob("*"))


async def test_an_agent_writes_only_to_the_projects_it_was_enrolled_for(
    site: Any, enrolled: Any, make_item: Any, progress: list[int]
) -> None:
    await site.open()
    target = (await enrolled()).https()
    foreign = make_item(item_id="a", project="other", remote="other/beamline/2026-11-24/000001/a.dat")
    with pytest.raises(PermissionRefused, match="may not write to project other") as error:
        await target.send(foreign, progress.append)
    assert "grant" in error.value.try_
    unclaimed = make_item(item_id="b", project="unclaimed", remote="unclaimed/beamline/2026-11-24/000001/b.dat")
    assert (await target.send(unclaimed, progress.append)).size == unclaimed.size


async def test_a_full_disk_and_a_used_up_quota_are_said_clearly(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    await site.open(Limits(keep_free=1 << 60))
    agent = await enrolled()
    with pytest.raises(TargetUnreachable, match="disk is full") as error:
        await agent.https().send(make_item(), progress.append)
    assert error.value.code == "LANDING_FULL"
    await site.open(Limits(keep_free=0, quota=5000))
    target = agent.https(site.url)
    await target.send(make_item(item_id="a"), progress.append)
    with pytest.raises(PermissionRefused, match="used its share") as refused:
        await target.send(make_item(item_id="b"), progress.append)
    assert refused.value.code == "LANDING_QUOTA"


async def test_an_item_above_the_largest_size_is_refused(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    await site.open(Limits(keep_free=0, max_size=100))
    target = (await enrolled()).https()
    assert (await target.probe()).max_size == 100
    with pytest.raises(PermissionRefused, match="too large"):
        await target.send(make_item(), progress.append)


async def test_runs_are_listed_for_the_agents_of_their_project_only(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    service = await site.open()
    agent, other = await enrolled("agent"), await enrolled("other", "other-project")
    await agent.https().send(make_item(label=Label(Access.OPEN)), progress.append)
    [run] = await service.receiver.runs(agent.agent_id)
    assert (run.path, run.files, run.size) == ("demo-project/beamline/2026-11-24/000001", 1, 4000)
    assert await service.receiver.runs(other.agent_id) == []
    assert [file.path for file in await service.receiver.files(agent.agent_id, run.path)] == [run.path + "/item-1.dat"]
