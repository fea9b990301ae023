"""The outbox against a plain model, over random histories with restarts: states, order, places and files agree after each step."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.model import ItemKind, Label, OutboxItem, Proof, Receipt
from edge_agent.spool import Counts, Spool

TARGETS = ("cloud", "disk")
STREAM = "cam/frames"


@dataclass
class Known:
    item: OutboxItem
    required: frozenset[str]
    states: dict[str, str]
    lost: int
    gone: str = ""
    order: int = field(default=0)


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.known: dict[str, Known] = {}
        self.announced: list[str] = []

    @initialize()
    def begin(self) -> None:
        self.spool = Spool(self.folder)

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.folder)

    def pick(self, data: st.DataObject, wanted: Callable[[Known, str], bool]) -> tuple[Known, str] | None:
        choices = [(k, t) for k in self.known.values() if not k.gone for t in k.states if wanted(k, t)]
        return data.draw(st.sampled_from(choices)) if choices else None

    @rule(
        kind=st.sampled_from([ItemKind.SEGMENT, ItemKind.MASTER, ItemKind.CRATE]),
        run=st.integers(1, 2),
        n=st.integers(0, 50),
        lost=st.integers(0, 5),
        route=st.lists(st.sampled_from(TARGETS), min_size=1, unique=True),
        data=st.data(),
    )
    def add(self, kind: ItemKind, run: int, n: int, lost: int, route: list[str], data: st.DataObject) -> None:
        required = frozenset(data.draw(st.lists(st.sampled_from(route), unique=True)))
        item_id = f"i{len(self.known)}"
        path = self.folder / f"{item_id}.h5"
        path.write_bytes(item_id.encode())
        item = OutboxItem(
            item_id, kind, path, f"p/{item_id}", path.stat().st_size, bytes([run]) * 16, run, "p", Label(), counts={STREAM: n}
        )
        assert self.spool.outbox.add(item, route, required, {STREAM: Counts(items=n, lost=lost)})
        assert not self.spool.outbox.add(item, route, required)
        self.known[item_id] = Known(item, required, dict.fromkeys(route, "sealed"), lost, order=len(self.known))

    def expected_next(self, target: str) -> Known | None:
        here = [k for k in self.known.values() if not k.gone and k.states.get(target) in ("sealed", "sending")]
        everything = [k for k in self.known.values() if target in k.states]

        def ready(known: Known) -> bool:
            return known.item.kind is not ItemKind.CRATE or not any(
                o.item.run_id == known.item.run_id
                and o.item.kind is not ItemKind.CRATE
                and o.states[target] not in ("proved", "dropped")
                for o in everything
            )

        ranked = sorted(filter(ready, here), key=lambda k: (k.item.run_no, list(ItemKind).index(k.item.kind), k.order))
        return ranked[0] if ranked else None

    @rule(where=st.sampled_from(TARGETS), verdict=st.sampled_from(["proved", "failed", "park", "quarantine", "nothing"]))
    def send(self, where: str, verdict: str) -> None:
        target = where
        known, item = self.expected_next(target), self.spool.outbox.next_for(target)
        assert (item and item.item_id) == (known and known.item.item_id)
        if known is None:
            return
        item_id = known.item.item_id
        assert self.spool.outbox.begin(item_id, target)
        known.states[target] = "sending"
        if verdict == "proved":
            digest = hashlib.sha256(item_id.encode()).digest()
            assert self.spool.outbox.proved(Receipt(target, item_id, digest, known.item.size, Proof.READ_BACK, 1))
            known.states[target] = "proved"
        elif verdict == "failed":
            self.spool.outbox.failed(item_id, target, "away", None)
            known.states[target] = "sealed"
        elif verdict != "nothing":
            getattr(self.spool.outbox, verdict)(item_id, target, "because")
            known.states[target] = {"park": "parked", "quarantine": "quarantined"}[verdict]

    @rule(data=st.data())
    def retry_or_drop(self, data: st.DataObject) -> None:
        picked = self.pick(data, lambda k, t: k.states[t] == "quarantined")
        if picked is None:
            return
        known, _ = picked
        refused = [t for t, s in known.states.items() if s == "quarantined"]
        if data.draw(st.booleans()):
            self.spool.quarantine.retry(known.item.item_id)
            known.states.update(dict.fromkeys(refused, "sealed"))
            return
        self.spool.quarantine.drop(known.item.item_id, "a reason")
        known.states.update(dict.fromkeys(refused, "dropped"))
        left = {t for t, s in known.states.items() if s != "dropped"}
        if not left:
            known.gone = "dropped"
        elif not known.required & left:
            known.required = frozenset(left)

    @rule()
    def unpark(self) -> None:
        parked = [(k, t) for k in self.known.values() for t, s in k.states.items() if s == "parked"]
        assert self.spool.outbox.unpark() == len(parked)
        for known, target in parked:
            known.states[target] = "sealed"

    @rule(pressure=st.booleans())
    def release(self, pressure: bool) -> None:
        self.skip_crates()
        self.spool.retention.release(lambda item, _: self.announced.append(item.item_id), pressure=pressure)
        for known in self.known.values():
            if known.gone or not self.landed(known):
                continue
            open_states = {s for s in known.states.values() if s not in ("proved", "dropped")}
            if not open_states or (pressure and "sending" not in open_states):
                known.gone = "freed"
                known.states = {t: s if s in ("proved", "dropped") else "skipped" for t, s in known.states.items()}

    def skip_crates(self) -> None:
        """A crate waits nowhere where something of its run was skipped."""
        lacking = {(k.item.run_id, t) for k in self.known.values() for t, s in k.states.items() if s == "skipped" and not _is_crate(k)}
        for known in filter(_is_crate, self.known.values()):
            for target, state in known.states.items():
                if (known.item.run_id, target) in lacking and state in ("sealed", "parked"):
                    known.states[target] = "skipped"

    @precondition(lambda self: self.known)
    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.spool = Spool(self.folder)
        for known in self.known.values():
            known.states = {t: "sealed" if s == "sending" else s for t, s in known.states.items()}

    def landed(self, known: Known) -> bool:
        deciding = [known.states[t] for t in known.required if known.states[t] != "dropped"]
        return known.gone == "freed" or (bool(deciding) and all(s == "proved" for s in deciding))

    @invariant()
    def states_and_files_agree(self) -> None:
        for item_id, known in self.known.items():
            assert {d.target: d.state for d in self.spool.outbox.deliveries(item_id)} == known.states
            assert known.item.path.exists() == (not known.gone)
        freed = {i for i, k in self.known.items() if k.gone == "freed"}
        assert freed == set(self.announced)
        assert len(self.announced) == len(freed)

    @invariant()
    def nothing_is_unaccounted_for(self) -> None:
        assert self.spool.ledger.audit() == []
        totals = self.spool.ledger.totals().get(STREAM)
        if totals is None:
            assert not self.known
            return
        dropped = sum(k.item.counts[STREAM] for k in self.known.values() if k.gone == "dropped")
        assert totals.discrepancy == 0
        assert totals.arrived == sum(k.item.counts[STREAM] + k.lost for k in self.known.values())
        assert totals.landed == sum(k.item.counts[STREAM] for k in self.known.values() if self.landed(k))
        assert totals.lost == dropped + sum(k.lost for k in self.known.values())


def _is_crate(known: Known) -> bool:
    return known.item.kind is ItemKind.CRATE


SpoolMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestSpoolAgainstAModel = SpoolMachine.TestCase
