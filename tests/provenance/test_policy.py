"""All cells of labels x destinations x kinds of object. The expectation is written per label and destination, for each kind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.model import Access, ItemKind, Label
from edge_agent.provenance.policy import (
    ITEM_OBJECTS,
    NOBODY,
    Destination,
    DestinationKind,
    ObjectKind,
    PolicyGate,
    may_send,
    must_encrypt,
    store,
    stricter,
)

ALL, NONE = set(ObjectKind), set[ObjectKind]()
WATCHED = {ObjectKind.METRICS, ObjectKind.LOG, ObjectKind.NAME}

DESTINATIONS = {
    "own-space": Destination("own-space", DestinationKind.STORE, project_space=True),
    "own-space-facility": Destination("own-space-facility", DestinationKind.STORE, project_space=True, facility=True),
    "named-store": Destination("named", DestinationKind.STORE),
    "named-live": Destination("named", DestinationKind.LIVE),
    "named-monitoring": Destination("named", DestinationKind.MONITORING),
    "other-store": Destination("other", DestinationKind.STORE),
    "facility-store": Destination("other", DestinationKind.STORE, facility=True),
    "other-live": Destination("other", DestinationKind.LIVE),
    "own-live": Destination("other", DestinationKind.LIVE, project_space=True),
    "facility-live": Destination("other", DestinationKind.LIVE, facility=True),
    "other-monitoring": Destination("other", DestinationKind.MONITORING),
    "facility-monitoring": Destination("other", DestinationKind.MONITORING, facility=True),
    "own-monitoring": Destination("other", DestinationKind.MONITORING, project_space=True),
    "tsa": Destination("timestamp", DestinationKind.TIMESTAMP),
    "facility-tsa": Destination("timestamp", DestinationKind.TIMESTAMP, facility=True),
    "named-tsa": Destination("named", DestinationKind.TIMESTAMP),
    "own-tsa": Destination("timestamp", DestinationKind.TIMESTAMP, project_space=True),
    "screen": Destination("screen", DestinationKind.SCREEN),
    "own-space-jp": store("own-space-jp", jurisdiction="JP"),
    "own-space-us": store("own-space-us", jurisdiction="US"),
    "named-jp": store("named", project_space=False, jurisdiction="JP"),
    "named-us": store("named", project_space=False, jurisdiction="US"),
    "nowhere": None,
}
LABELS = {
    "open": Label(Access.OPEN),
    "shared": Label(Access.SHARED, frozenset({"named"})),
    "shared-with-nobody": Label(Access.SHARED),
    "closed": Label(Access.CLOSED, frozenset({"named"})),
    "closed-to-all": Label(Access.CLOSED),
    "default": Label(),
    "stays-in-japan": Label(Access.CLOSED, jurisdictions=frozenset({"JP"})),
    "named-in-japan": Label(Access.SHARED, frozenset({"named"}), frozenset({"JP"})),
    "in-no-country": Label(Access.SHARED, jurisdictions=frozenset()),
    "to-nobody": Label(Access.CLOSED, frozenset({NOBODY})),
    "open-japan": Label(Access.OPEN, jurisdictions=frozenset({"JP"})),
}
SCREEN = {"screen": ALL}
OWN = SCREEN | dict.fromkeys(("own-space", "own-space-facility", "own-space-jp", "own-space-us"), ALL)
NAMED = SCREEN | dict.fromkeys(("named-store", "named-live", "named-monitoring", "named-jp", "named-us"), ALL)
DIGESTS = {ObjectKind.DIGEST}
TSAS = {"tsa", "facility-tsa", "named-tsa", "own-tsa"}
APPROVED = {"facility-tsa": DIGESTS}
OPEN = dict.fromkeys(set(DESTINATIONS) - {"nowhere"} - TSAS, ALL) | dict.fromkeys(TSAS, DIGESTS)
ALLOWED = {
    "open": OPEN,
    "shared": NAMED | APPROVED | {"facility-monitoring": WATCHED},
    "shared-with-nobody": OWN | APPROVED | {"facility-monitoring": WATCHED},
    "closed": NAMED | APPROVED,
    "closed-to-all": OWN | APPROVED,
    "default": OWN | APPROVED,
    "stays-in-japan": SCREEN | APPROVED | {"own-space-jp": ALL},
    "named-in-japan": SCREEN | APPROVED | {"named-jp": ALL},
    "in-no-country": SCREEN | APPROVED,
    "to-nobody": SCREEN | APPROVED,
    "open-japan": OPEN,
}


@pytest.mark.parametrize("label", list(LABELS))
def test_every_cell_of_the_policy(label: str) -> None:
    for name, destination in DESTINATIONS.items():
        for kind in ObjectKind:
            decision = may_send(LABELS[label], destination, kind)
            assert decision.allowed == (kind in ALLOWED[label].get(name, NONE)), (name, kind)
            assert decision.reason, (name, kind)


@pytest.mark.parametrize("value", ["", "anything", None, 7])
def test_what_the_policy_does_not_know_it_refuses(value: Any) -> None:
    own = Destination("own", DestinationKind.STORE, project_space=True)
    assert not may_send(Label(Access.OPEN), own, value).allowed
    assert not may_send(Label(value), own, ObjectKind.DATA).allowed
    assert not may_send(Label(Access.OPEN), Destination("own", value, project_space=True), ObjectKind.DATA).allowed


def test_a_refusal_says_who_would_be_allowed() -> None:
    reason = may_send(Label(Access.CLOSED, frozenset({"b", "a"})), DESTINATIONS["other-store"], ObjectKind.PREVIEW).reason
    assert reason == "preview of closed data: the label names a, b, and other is not the project's own space"


@pytest.mark.parametrize(
    ("least", "encrypted"), [(Access.CLOSED, {Access.CLOSED}), (Access.SHARED, {Access.SHARED, Access.CLOSED}), (Access.OPEN, set(Access))]
)
def test_what_is_as_strict_as_asked_is_encrypted_and_what_nobody_knows_too(least: Access, encrypted: set[Access]) -> None:
    assert {access for access in Access if must_encrypt(Label(access), least)} == encrypted
    unknown: Any = "anything"
    assert must_encrypt(Label(unknown), least)


labels = st.builds(
    Label, st.sampled_from(Access), st.frozensets(st.sampled_from(["named", "other", "own-space", "third"])),
    st.none() | st.frozensets(st.sampled_from(["JP", "US"])),
)  # fmt: skip
SPACES = frozenset({"own-space", "own-space-facility", "own-space-jp", "own-space-us"})
"""Of the destinations those that are the project's own space under a name of their own."""
destinations = st.sampled_from(list(DESTINATIONS.values()))


@given(labels, labels, destinations, st.sampled_from(ObjectKind))
def test_the_stricter_of_two_labels_allows_nothing_that_one_of_them_refuses(
    one: Label, other: Label, destination: Destination | None, kind: ObjectKind
) -> None:
    if may_send(stricter(one, other, SPACES), destination, kind).allowed:
        assert may_send(one, destination, kind).allowed
        assert may_send(other, destination, kind).allowed


@given(labels, labels)
def test_the_order_of_two_labels_does_not_matter(one: Label, other: Label) -> None:
    assert stricter(one, other, SPACES) == stricter(other, one, SPACES)


@given(labels, destinations, st.sampled_from(ObjectKind))
def test_a_label_combined_with_itself_is_no_other(label: Label, destination: Destination | None, kind: ObjectKind) -> None:
    assert may_send(stricter(label, label, SPACES), destination, kind).allowed == may_send(label, destination, kind).allowed


def test_open_with_shared_is_shared_with_the_same_targets() -> None:
    shared = Label(Access.SHARED, frozenset({"a"}))
    assert stricter(Label(Access.OPEN, frozenset({"x"})), shared, SPACES) == shared


def test_labels_that_name_different_targets_or_countries_agree_on_nobody() -> None:
    a, b = Label(Access.CLOSED, frozenset({"a"}), frozenset({"JP"})), Label(Access.CLOSED, frozenset({"b"}), frozenset({"US"}))
    agreed = stricter(a, b, frozenset({"a", "b"}))
    assert agreed == Label(Access.CLOSED, frozenset({NOBODY}), frozenset())
    gate = PolicyGate([store("a", jurisdiction="JP"), store("b", jurisdiction="US"), "c"])
    assert not any(gate(agreed, ItemKind.SEGMENT, target).allowed for target in ("a", "b", "c", NOBODY))


def test_a_label_that_names_nobody_means_the_projects_own_space_against_one_that_names_some() -> None:
    some = Label(Access.CLOSED, frozenset({"a", "elsewhere"}))
    assert stricter(Label(), some, frozenset({"a", "b"})) == Label(Access.CLOSED, frozenset({"a"}))


@pytest.mark.parametrize("kind", list(ItemKind))
def test_the_gate_knows_every_kind_of_item_and_refuses_targets_that_are_not_configured(kind: ItemKind) -> None:
    gate = PolicyGate(["cloud", "disk"])
    assert kind in ITEM_OBJECTS
    assert gate(Label(), kind, "cloud").allowed
    assert gate(Label(Access.CLOSED, frozenset({"disk"})), kind, "disk").allowed
    assert not gate(Label(Access.CLOSED, frozenset({"disk"})), kind, "cloud").allowed
    assert gate(Label(Access.OPEN), kind, "elsewhere").reason == "the destination is not configured"
