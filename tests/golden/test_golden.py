"""HSC/1 is frozen: files that were signed once are judged the same for ever, and the same input is signed as the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.seal.leaf import parse
from tests.compat.readers import READERS, read
from tests.golden.findings import VECTORS, Case, cases, independent, ours, put_receipts, unpack
from tests.golden.statements import statements

HERE = Path(__file__).parent
SAID: dict[str, Any] = json.loads((HERE / "findings.json").read_text())
FROZEN: dict[str, str] = json.loads((HERE / "statements.json").read_text())
MOST = 2_000_000
OPENED = ("frames.h5", "rows.h5", "tags.h5", "epochs.h5", "run/000124/000124.nxs")
READ = ("/entry/instrument/camera/image/data", "/entry/instrument/balance/weight/value")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the vectors, unpacked."""
    return unpack(tmp_path_factory.mktemp("golden"))


def test_the_vectors_are_the_files_that_were_frozen_and_are_few() -> None:
    files = {str(path.relative_to(VECTORS)): path.read_bytes() for path in sorted(VECTORS.rglob("*")) if path.is_file()}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == SAID["files"]
    assert sum(map(len, files.values())) < MOST


def test_every_vector_is_asked_about_and_nothing_else() -> None:
    assert [case.name for case in cases()] == list(SAID["findings"])


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
@pytest.mark.parametrize("verifier", [ours, independent], ids=["ours", "independent"])
def test_todays_verifiers_find_what_was_found_when_the_format_was_frozen(
    verifier: Callable[[Path, Case], tuple[dict[str, Any], str]], case: Case, place: Path
) -> None:
    put_receipts(place, case)
    expected = dict(SAID["findings"][case.name])
    says = expected.pop("says", [])
    found, sentence = verifier(place, case)
    assert found == expected, sentence
    assert all(word in sentence for word in says), sentence


@pytest.mark.parametrize("version", READERS)
def test_the_vectors_are_opened_by_old_and_new_hdf5(version: str, place: Path) -> None:
    for name in OPENED:
        found = read(version, place / name)
        assert found["/entry/title"][2] == SAID["title"]
        for path in READ:
            if path in found:
                assert found[path] == SAID["contents"][f"{name} {path}"]


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_signed_for_given_input_never_changes(name: str) -> None:
    assert statements()[name].hex() == FROZEN[name]


def test_no_statement_is_without_its_frozen_bytes() -> None:
    made = statements()
    assert list(made) == list(FROZEN)
    types = {data[4] for data in made.values() if data[:4] == b"HSC1"}
    assert types == {*range(1, 11), *range(64, 81)}, "a leaf of every type"
    assert all(parse(data).payload() == data for data in made.values() if data[:4] == b"HSC1")
