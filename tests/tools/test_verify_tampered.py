"""One segment, changed in every way that comes to mind: each is reported, by dataset and coordinate where there is one."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import cbor2
import h5py
import numpy as np
import pytest

FRAMES, VALUES, FLAGS = "/entry/camera/data", "/entry/balance/value", "/entry/balance/flag"
TABLES = "/entry/integrity"
DUMP = Path(__file__).with_name("dump_as_read.py")


def reason(hsc, path, root=None, level=0):
    code, out = hsc.verify(path, root=root, level=level + 1)
    (item,) = out["items"]
    assert code == 1, item
    assert item["level"] == level, item
    return item["reason"]


def swap(a, b):
    def change(leaves):
        leaves = list(leaves)
        leaves[a], leaves[b] = leaves[b], leaves[a]
        return leaves

    return change


def with_field(payload, **fields):
    """A leaf with some fields of its map replaced, `_3=...`; None as name deletes nothing."""
    return payload[:5] + cbor2.dumps(cbor2.loads(payload[5:]) | {int(k[1:]): v for k, v in fields.items()}, canonical=True)


def chunk_with(payload, at, raw):
    return payload[:at] + raw + payload[at + len(raw) :]


def edit(index, change):
    return lambda leaves: [*leaves[:index], change(leaves[index]), *leaves[index + 1 :]]


def closed(leaves):
    """What CLOSE says of the datasets."""
    return cbor2.loads(leaves[-1][5:])[1]


# Leaves of a segment: 0 OPEN, 1 DATASET, 2 3 CHUNK, 4 GAP, 5 6 7 CHUNK, 8 9 DATASET, 10..14 CHUNK, 15 META, 16 CLOSE.
LEAVES = {
    "two frames swapped": (swap(2, 3), "source camera/image goes on at 100, but 102 is next"),
    "a frame dropped": (
        lambda ls: [*ls[:6], *ls[7:]],
        f"{FRAMES} chunk at [4, 0, 0] (leaf 6): source camera/image goes on at 107, but 106",
    ),
    "a chunk twice": (lambda ls: [*ls[:12], ls[11], *ls[12:]], f"{VALUES} chunk at [8] (leaf 12): is in the tree twice"),
    "a gap dropped": (lambda ls: [*ls[:4], *ls[5:]], "source camera/image goes on at 105, but 102 is next"),
    "a gap widened": (edit(4, lambda p: with_field(p, _3=105)), "goes on at 105, but 106 is next"),
    "a gap with one end": (edit(4, lambda p: with_field(p, _3=None)), "(GAP): has only one of its two numbers"),
    "a gap with a text as number": (edit(4, lambda p: with_field(p, _5="3")), "leaf 4 (GAP): has other fields"),
    "a frame without number": (edit(7, lambda p: p[:-16] + b"\xff" * 16), "(leaf 7): does not have the numbers of its kind"),
    "a row with a number": (edit(10, lambda p: p[:-16] + bytes(16)), "(leaf 10): does not have the numbers of its kind"),
    "a chunk of another segment": (
        edit(5, lambda p: chunk_with(p, 5, bytes(16))),
        "chunk at [2, 0, 0] (leaf 5): belongs to another segment",
    ),
    "a chunk of another rank": (edit(10, lambda p: chunk_with(p, 53, b"\2")), "leaf 10 (CHUNK): has the wrong length"),
    "a chunk before its dataset": (swap(1, 2), "of a dataset that no DATASET leaf announced"),
    "a dataset twice": (lambda ls: [*ls[:2], ls[1], *ls[2:]], "without descriptor, or one twice"),
    "the close dropped": (lambda ls: ls[:-1], "the last leaf is not CLOSE"),
    "a leaf after the close": (lambda ls: [*ls, ls[3]], "leaf 17: stands after CLOSE"),
    "a second opening": (lambda ls: [ls[0], ls[0], *ls[1:]], "OPEN must be leaf 0 and only leaf 0"),
    "the opening elsewhere": (swap(0, 1), "leaf 0: OPEN must be leaf 0"),
    "an unknown leaf": (lambda ls: [*ls[:2], b"HSC1\x0b\xa0", *ls[2:]], "unknown type 11"),
    "a clock leaf that says nothing": (
        lambda ls: [*ls[:2], b"HSC1\x05" + cbor2.dumps({1: None, 2: None, 3: 1, 4: 2}), *ls[2:]], "leaf 2 (CLOCK): says nothing"),
    "rows of an unknown dataset": (
        lambda ls: [*ls[:2], b"HSC1\x09" + cbor2.dumps({1: [bytes(32)], 2: 0, 3: 1, 4: bytes(32)}), *ls[2:]],
        "leaf 2 (ROWS): names a dataset that no DATASET leaf announced"),
    "a foreign leaf": (lambda ls: [*ls[:2], b"HSC2\x02\xa0", *ls[2:]], "leaf 2: is not a leaf"),
    "a field more": (edit(15, lambda p: with_field(p, _2=0)), "leaf 15 (META): has other fields"),
    "another policy": (edit(16, lambda p: with_field(p, _3=bytes(32))), "CLOSE names another policy than OPEN"),
    "another last META": (edit(15, lambda p: with_field(p, _1=bytes(32))), "CLOSE names another META digest"),
    "an unknown reason": (edit(16, lambda p: with_field(p, _5="bored")), "CLOSE has the reason 'bored'"),
}
ONLY_STORED = {
    "two rows swapped": (swap(10, 11), "the leaves do not give its root"),
    "a time changed": (edit(5, lambda p: chunk_with(p, 122, bytes(8))), "do not give its root"),
    "the last frame dropped": (lambda ls: [*ls[:7], *ls[8:]], "covers 17 leaves, the file has 16"),
    "the run changed": (edit(0, lambda p: with_field(p, _2=bytes(16))), "head 0: the first 2 leaves do not give its root"),
}
ONLY_SIGNED = {
    "the last frame dropped": (lambda ls: [*ls[:7], *ls[8:]], "CLOSE counts 5 chunks, the tree has 4"),
    "the mask changed": (
        edit(6, lambda p: chunk_with(p, 78, b"\0\0\0\0")),
        f"{FRAMES} chunk at [3, 0, 0]: the filter mask is 0x1, but 0x0",
    ),
    "the size changed": (edit(6, lambda p: chunk_with(p, 82, struct.pack(">Q", 34))), f"{FRAMES} chunk at [3, 0, 0]: has 33 bytes, but 34"),
    "the size smaller": (edit(6, lambda p: chunk_with(p, 82, struct.pack(">Q", 3))), "the file does not hold it in 3 bytes"),
    "the size absurd": (edit(6, lambda p: chunk_with(p, 82, b"\x7f" + bytes(7))), "more than the file has"),
    "the hash changed": (edit(6, lambda p: chunk_with(p, 90, bytes(32))), "chunk at [3, 0, 0]: the stored bytes are not the signed ones"),
    "a place between chunks": (
        edit(10, lambda p: chunk_with(p, 54, struct.pack(">Q", 4))),
        f"{VALUES} chunk at [4]: is no place of a chunk",
    ),
    "a place outside of the shape": (
        edit(13, lambda p: chunk_with(p, 54, struct.pack(">Q", 4))),
        f"{FLAGS} chunk at [4]: is no place of a chunk",
    ),
    "a chunk that nobody signed": (
        lambda ls: [*ls[:14], ls[15], with_field(ls[16], _1=[*closed(ls)[:2], [closed(ls)[2][0], [4], 1]])],
        f"{FLAGS} chunk at [2]: is in the file but not signed",
    ),
    "another META": (lambda ls: [*ls[:15], *(with_field(ls[n], **{f"_{n - 14}": bytes(32)}) for n in (15, 16))], "META digest"),
    "a dataset missing in the close": (
        edit(16, lambda p: with_field(p, _1=cbor2.loads(p[5:])[1][:2])),
        "CLOSE does not name every dataset",
    ),
    "another final shape": (edit(16, lambda p: p.replace(b"\x81\x14\x03", b"\x81\x15\x03")), f"{VALUES}: the shape is [20], but [21]"),
}


def wrong_reports(hsc, run, root, cases):
    """Make a segment for each case (name -> options, sentence), verify all at once; what was not reported as expected."""
    names = {}
    for number, (name, (options, _)) in enumerate(cases.items()):
        names[str(hsc.make_segment(run, f"{number:03}.h5", **options).path)] = name
    _, out = hsc.verify(run.folder, root=root)
    reports = {names[item["path"]]: (item["level"], item["reason"]) for item in out["items"]}
    assert reports.keys() == cases.keys()
    return {name: reports[name] for name, (_, text) in cases.items() if reports[name][0] != 0 or text not in reports[name][1]}


def test_leaf_tables_changed_after_signing_are_damage(hsc, run, root):
    cases = {name: ({"stored": change}, text) for name, (change, text) in (LEAVES | ONLY_STORED).items()}
    assert wrong_reports(hsc, run, root, cases) == {}


def test_an_agent_cannot_sign_what_the_format_forbids_or_the_file_does_not_hold(hsc, run, root):
    cases = {name: ({"signed": change}, text) for name, (change, text) in (LEAVES | ONLY_SIGNED).items()}
    assert wrong_reports(hsc, run, root, cases) == {}


def test_a_chunk_that_nobody_signed_is_missing_also_where_readers_would_see_a_fill_value(hsc, run, root):
    grown = edit(16, lambda p: with_field(p, _1=[*cbor2.loads(p[5:])[1][:2], [cbor2.loads(p[5:])[1][2][0], [6], 2]]))
    path = hsc.make_segment(run, "a.h5", signed=grown, after=lambda f: f[FLAGS].resize((6,))).path
    assert f"{FLAGS}: 2 chunks were signed, and its shape needs 3" in reason(hsc, path, root)


def relabel(path, **changes):
    def change(file):
        for name, value in changes.items():
            file[path].attrs[name] = value

    return change


def replace_table(name, raw):
    def change(file):
        del file[f"{TABLES}/{name}"]
        if raw is not None:
            file[f"{TABLES}/{name}"] = raw

    return change


def rewrite_byte(name, at):
    def change(file):
        table = file[f"{TABLES}/{name}"]
        table[at] ^= 1

    return change


def recreate(path, **options):
    """The same chunks in a dataset with other properties."""

    def change(file):
        old = file[path]
        plist = old.id.get_create_plist()
        form = {
            "dtype": old.dtype,
            "shape": old.shape,
            "maxshape": old.maxshape,
            "chunks": old.chunks,
            "fillvalue": old.fillvalue,
        } | options
        chunks = [old.id.get_chunk_info(n).chunk_offset for n in range(old.id.get_num_chunks())]
        stored = [(offset, *old.id.read_direct_chunk(offset)) for offset in chunks]
        filters = [plist.get_filter(n) for n in range(plist.get_nfilters())]
        units = old.attrs["units"]
        del file[path]
        fresh = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        fresh.set_chunk(form["chunks"])
        fresh.set_fill_value(np.array(form["fillvalue"], form["dtype"]))
        for code, flags, values, _ in form.get("filters", filters):
            fresh.set_filter(code, flags, values)
        space = h5py.h5s.create_simple(form["shape"], tuple(h5py.h5s.UNLIMITED if n is None else n for n in form["maxshape"]))
        type_id = h5py.h5t.py_create(np.dtype(form["dtype"]), logical=True)
        new = h5py.Dataset(h5py.h5d.create(file.id, path.encode(), type_id, space, fresh))
        new.attrs["units"] = units
        for offset, mask, data in stored:
            if all(at < size for at, size in zip(offset, new.shape, strict=True)):
                new.id.write_direct_chunk(offset, data, mask)

    return change


def masked(file):
    offset = (1, 0, 0)
    _, data = file[FRAMES].id.read_direct_chunk(offset)
    file[FRAMES].id.write_direct_chunk(offset, bytes(data) + b"x", 1)


def overwritten(path, offset):
    def change(file):
        _, data = file[path].id.read_direct_chunk(offset)
        file[path].id.write_direct_chunk(offset, bytes(data[:-1]) + bytes([data[-1] ^ 1]))

    return change


FILES = {
    "a unit edited": (relabel(VALUES, units="kg"), "META digest"),
    "an attribute added": (relabel("/entry", note="x"), "META digest"),
    "an attribute of another type": (relabel("/entry/camera", mode="fast"), "META digest"),
    "an attribute of another text encoding": (
        lambda f: f["/entry/camera"].attrs.create("mode", "fast", dtype=h5py.string_dtype("utf-8", 6)), "META digest"),
    "an attribute removed": (lambda f: f[FRAMES].attrs.__delitem__("units"), "META digest"),
    "a small value edited": (lambda f: f["/entry/number"].write_direct(np.array(8, "u1")), "META digest"),
    "a text edited": (lambda f: f["/entry/title"].__setitem__((), "other"), "META digest"),
    "a group added": (lambda f: f.create_group("/entry/camera/more"), "META digest"),
    "a hard link added": (lambda f: f.__setitem__("/entry/z", f["/entry/title"]), "META digest"),
    "a soft link turned": (lambda f: (f.__delitem__("/entry/a-link"), f.__setitem__("/entry/a-link", h5py.SoftLink("/x"))), "META digest"),
    "a dataset added in chunks": (lambda f: f.create_dataset("/entry/more", (4,), "f4", chunks=(2,)), "/entry/more: is in the file but"),
    "a dataset removed": (lambda f: f.__delitem__(VALUES), f"{VALUES}: is signed but missing"),
    "a dataset moved": (lambda f: f.move(VALUES, "/entry/balance/v"), "/entry/balance/v: is in the file but not signed"),
    "frames of a signed type": (recreate(FRAMES, dtype="<i2"), f"{FRAMES}: the type is ['int', 2, 0, 1, 16, 0], but ['int'"),
    "big-endian frames": (recreate(FRAMES, dtype=">u2"), f"{FRAMES}: the type is"),
    "another filter value": (recreate(FRAMES, filters=[(32008, 1, (0, 5, 2, 0, 3), b"")]), f"{FRAMES}: the filters is"),
    "no filter": (recreate(FRAMES, filters=[]), f"{FRAMES}: the filters is []"),
    "other maximum shape": (recreate(FRAMES, maxshape=(50, 4, 6)), f"{FRAMES}: the maximum shape is [50, 4, 6], but [None, 4, 6]"),
    "another fill value": (recreate(FLAGS, fillvalue=-2), f"{FLAGS}: the fill value is"),
    "another chunk shape": (recreate(FLAGS, chunks=(1,)), f"{FLAGS}: the chunk shape is [1], but [2]"),
    "a shorter dataset": (lambda f: f[FLAGS].resize((3,)), f"{FLAGS}: the shape is [3], but [4]"),
    "a filter mask and size": (masked, f"{FRAMES} chunk at [1, 0, 0]: is signed, but the file does not hold it in 31 bytes"),
    "stored bytes": (overwritten(FRAMES, (4, 0, 0)), f"{FRAMES} chunk at [4, 0, 0]: the stored bytes are not the signed ones"),
    "an attribute on the tables": (relabel(TABLES, more=1), f"{TABLES}: has other attributes"),
    "a format of another name": (relabel(TABLES, format="HSC/2"), f"{TABLES}: has other attributes"),
    "a table more": (lambda f: f.__setitem__(f"{TABLES}/extra", 1), f"{TABLES}: holds README, descriptors, events, extra,"),
    "an attribute on a table": (relabel(f"{TABLES}/leaves", more=1), f"{TABLES}/leaves: has attributes or further links"),
    "a table with two names": (lambda f: f.__setitem__("/entry/leaves", f[f"{TABLES}/leaves"]), f"{TABLES}/leaves: has attributes"),
    "no tables": (lambda f: f.__delitem__(TABLES), "the file has no /entry/integrity: it is not signed"),
    "tables behind a soft link": (
        lambda f: (f.move(TABLES, "/entry/other"), f.__setitem__(TABLES, h5py.SoftLink("/entry/other"))), f"{TABLES}: is reached by"),
    "another README": (replace_table("README", "all is well"), f"{TABLES}/README: has another text"),
    "no README": (replace_table("README", None), "holds descriptors"),
    "a hint changed": (lambda f: f[f"{TABLES}/index/1"].__setitem__(0, 3), f"{TABLES}/index: does not give the leaves"),
    "a hint missing": (lambda f: f.__delitem__(f"{TABLES}/index/2"), f"{TABLES}/index: does not give the leaves"),
    "heads empty": (replace_table("heads", np.frombuffer(b"\x80", np.uint8)), f"{TABLES}/heads: is empty"),
    "heads no CBOR": (replace_table("heads", np.frombuffer(b"\xff", np.uint8)), f"{TABLES}/heads: is not CBOR"),
    "heads with a tail": (lambda f: replace_table("heads", np.append(f[f"{TABLES}/heads"][:], np.uint8(0)))(f), "something follows it"),
    "heads as wide integers": (lambda f: replace_table("heads", f[f"{TABLES}/heads"][:].astype("u2"))(f), "has the wrong type or rank"),
    "a head's signature": (rewrite_byte("heads", -1), "head 2: the signature is wrong"),
    "a session record's signature": (rewrite_byte("keychain", -1), "session record 0: the signature is wrong"),
    "padding of a row": (rewrite_byte("leaves", (0, -1)), "leaf 0: is too long, or the padding is not zero"),
    "an event's place": (rewrite_byte("leaves", (1, 11)), "leaf 1: does not point to the next event"),
    "events with a tail": (lambda f: replace_table("events", np.append(f[f"{TABLES}/events"][:], np.uint8(0)))(f), "belong to no leaf"),
    "a descriptor": (rewrite_byte("descriptors", 8), "descriptor"),
}  # fmt: skip


def test_files_changed_with_the_library_are_damage(hsc, run, root):
    cases = {name: ({"after": change}, text) for name, (change, text) in FILES.items()}
    assert wrong_reports(hsc, run, root, cases) == {}


def many(leaves):
    """The same with more than 4096 leaves."""
    return [*leaves[:15], *[leaves[15]] * 4100, *leaves[15:]]


EPOCHS = {
    "a bit": (rewrite_byte("epochs", (16, 0)), "epochs: are not the roots of the leaves"),
    "one less": (lambda f: replace_table("epochs", f[f"{TABLES}/epochs"][:-1])(f), "epochs: are not the roots of the leaves"),
    "missing": (replace_table("epochs", None), "epochs: is wrong with 4117 leaves"),
    "of another rank": (lambda f: replace_table("epochs", f[f"{TABLES}/epochs"][:].ravel())(f), "epochs: has the wrong type or rank"),
}


def test_epochs_that_are_not_those_of_the_leaves_are_damage(hsc, run, root):
    cases = {name: ({"signed": many, "after": change}, text) for name, (change, text) in EPOCHS.items()}
    unneeded = {"after": lambda file: file.__setitem__(f"{TABLES}/epochs", np.zeros((1, 32), "u1"))}
    cases["not needed"] = (unneeded, "epochs: is wrong with 17 leaves")
    assert wrong_reports(hsc, run, root, cases) == {}


def test_epochs_of_a_long_segment_are_signed(hsc, run, root):
    code, out = hsc.verify(hsc.make_segment(run, "a.h5", signed=many).path, root=root)
    assert (code, out["level"]) == (0, 2), out


HEADS = {
    "the first anchor missing": (lambda heads: heads[1:], "head 0: does not name the head before it"),
    "an anchor missing": (lambda heads: [heads[0], heads[2]], "head 1: does not name the head before it"),
    "the close head missing": (lambda heads: heads[:-1], "the close head: covers 7 leaves"),
}
CHANGED_HEADS = {
    "another root": ({"_5": bytes(32)}, "the leaves do not give its root"),
    "a smaller tree": ({"_4": 16}, "covers 16 leaves"),
    "an open state": ({"_13": 0}, "is not the head of a closed segment"),
    "a damaged state": ({"_13": 3}, "the agent itself declared this segment damaged"),
    "another agent": ({"_2": bytes(16)}, "names another agent than its key"),
    "another boot": ({"_10": bytes(16)}, "names another boot than its session key"),
    "another tree": ({"_3": bytes(16)}, "belongs to another tree"),
    "an old number": ({"_6": 3}, "is not later than the head before it"),
    "another hash": ({"_14": 2}, "head 2: has other fields"),
    "a receipt": ({"_12": b""}, "head 2: has other fields"),
}


def test_heads_that_are_missing_or_say_something_else_are_damage(hsc, run, root):
    def saying(changes):
        def change(heads):
            body = cbor2.loads(hsc.payload_of(heads[-1])) | {int(k[1:]): v for k, v in changes.items()}
            return [*heads[:-1], hsc.sign_all(run.agent.keys, "head", body)]

        return change

    cases = {name: ({"heads": change}, text) for name, (change, text) in HEADS.items()}
    cases |= {name: ({"heads": saying(changes)}, text) for name, (changes, text) in CHANGED_HEADS.items()}
    assert wrong_reports(hsc, run, root, cases) == {}


def test_a_head_signed_by_a_key_outside_the_chain_is_damage(hsc, run, ca, root):
    stranger = hsc.Agent(ca, run.agent.id)
    part = hsc.make_segment(
        run, "a.h5", heads=lambda hs: [*hs[:-1], hsc.sign_all(stranger.keys, "head", cbor2.loads(hsc.payload_of(hs[-1])))]
    )
    assert "head 2: is signed by a key that nothing here vouches for" in reason(hsc, part.path, root)


def test_a_head_with_another_content_type_is_damage(hsc, run, root):
    part = hsc.make_segment(
        run, "a.h5", heads=lambda hs: [*hs[:-1], hsc.sign_all(run.agent.keys, "run", cbor2.loads(hsc.payload_of(hs[-1])))]
    )
    assert "head 2: has content type 'application/x.hsc1-run+cbor'" in reason(hsc, part.path, root)


def test_a_whole_file_signed_again_by_a_stranger_under_the_same_agent_id_is_not_signed(hsc, run, root):
    stranger = hsc.Agent(None, run.agent.id)
    part = hsc.make_segment(hsc.Run(stranger, run.folder), "a.h5")
    assert "the given root did not certify it" in reason(hsc, part.path, root, level=1)


def test_a_certificate_of_a_receipt_key_or_of_another_agent_signs_no_segment(hsc, run, ca, root):
    for uri, sentence in (
        ("urn:hsc:receipts", "is no identity and certifies none before it"),
        (f"urn:hsc:agent:{'0' * 32}", "names another agent than its identity"),
    ):
        run.agent.certificates = [ca.issue(uri, run.agent.identity)]
        assert sentence in reason(hsc, hsc.make_segment(run, "a.h5").path, root)


def test_an_agents_certificate_issues_no_others(hsc, run, ca, root):
    issuer = hsc.Agent(ca)
    parent = hsc.x509.load_der_x509_certificate(issuer.certificates[0])
    uri = f"urn:hsc:agent:{run.agent.id.hex()}"
    forged = hsc.certificate(uri, run.agent.identity, uri, parent, issuer.identity)
    run.agent.certificates = [forged.public_bytes(hsc.Encoding.DER), *issuer.certificates]
    assert "of no agent or of several" in reason(hsc, hsc.make_segment(run, "b.h5").path, root)
    run.agent.certificates = run.agent.certificates[:1]
    part = hsc.make_segment(run, "a.h5")
    assert "did not certify" in reason(hsc, part.path, root, level=1)
    (run.folder / "issuer.der").write_bytes(issuer.certificates[0])
    assert "did not certify" in reason(hsc, part.path, run.folder / "issuer.der", level=1)


def test_a_truncated_file_is_damage_at_any_length(hsc, run, root, tmp_path):
    raw = hsc.make_segment(run, "a.h5").path.read_bytes()
    folder = tmp_path / "cut"
    folder.mkdir()
    for size in range(0, len(raw), len(raw) // 40):
        (folder / f"{size:06}.h5").write_bytes(raw[:size])
    code, out = hsc.verify(folder, root=root)
    assert code == 1
    assert {item["level"] for item in out["items"]} == {0}


@pytest.mark.parametrize("step", [499, pytest.param(97, marks=pytest.mark.slow(25))])
def test_every_flipped_byte_is_reported_or_leaves_all_that_a_reader_sees(hsc, run, root, tmp_path, step):
    """As a user runs the tool, a child for each file; `tests/segment/test_flips.py` asks it about every byte within one process."""
    raw = hsc.make_segment(run, "a.h5").path.read_bytes()
    folder = tmp_path / "flips"
    folder.mkdir()
    for at in range(0, len(raw), step):
        changed = bytearray(raw)
        changed[at] ^= 1 << at % 8
        (folder / f"{at:06}.h5").write_bytes(changed)
    _, out = hsc.verify(folder, root=root)
    assert len(out["items"]) == len(range(0, len(raw), step))
    passed = [item["path"] for item in out["items"] if item["ok"]]
    assert passed
    assert len(passed) < len(out["items"])
    dumps = subprocess.run(
        [sys.executable, DUMP, run.folder / "a.h5", *passed], capture_output=True, text=True, timeout=200, check=True
    ).stdout
    original, *others = json.loads(dumps)
    assert [path for path, dump in zip(passed, others, strict=True) if dump != original] == []
