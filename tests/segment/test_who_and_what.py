"""Who measured what stands where NeXus has it."""

from __future__ import annotations

from edge_agent.model import RunContext
from edge_agent.seal.meta import DatasetMeta
from edge_agent.segment.layout import entry_objects


def texts(user: str, sample: str) -> dict[str, str]:
    run = RunContext(b"r" * 16, 1, "p", "g", 0, "p/g/1970-01-01/000001", user=user, sample=sample)
    found = {}
    for path, thing in entry_objects(run, "BL05", 1, "rows", "{}").items():
        if path.startswith(("/entry/user/", "/entry/sample/")) and isinstance(thing, DatasetMeta) and thing.value is not None:
            data = thing.value.data
            assert isinstance(data, tuple)
            found[path.removeprefix("/entry/")] = data[0].decode()
    return found


def test_an_orcid_and_an_igsn_have_fields_of_their_own() -> None:
    assert texts("https://orcid.org/0000-0002-1825-0097", "igsn:10.58052/IEAUL0001") == {
        "user/ORCID": "https://orcid.org/0000-0002-1825-0097",
        "user/role": "operator",
        "sample/identifier_igsn": "10.58052/IEAUL0001",
    }


def test_names_stay_names_and_nothing_is_made_up() -> None:
    assert texts("Hanako Yamada", "lysozyme") == {"user/name": "Hanako Yamada", "user/role": "operator", "sample/name": "lysozyme"}
    assert texts("", "") == {}
