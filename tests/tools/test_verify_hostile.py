"""Files made to harm the reader: other files are never opened, and a dead or endless worker is a sentence at level 0."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import struct

import h5py
import numpy as np

SECRET = b"the canary must not leave its file"


def test_what_leads_out_of_the_file_or_out_of_the_format_is_refused_before_it_is_read(hsc, run, root, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.frombuffer(SECRET, "u1")
    (tmp_path / "secret.txt").write_bytes(SECRET)

    def virtual(file):
        layout = h5py.VirtualLayout((len(SECRET),), "u1")
        layout[:] = h5py.VirtualSource(secret, "x", (len(SECRET),))
        file.create_virtual_dataset("entry/bad", layout)

    def committed(file):
        file["entry/type"] = np.dtype("<i4")
        file.create_dataset("entry/bad", (2,), file["entry/type"])

    def add(name="bad", **options):
        return lambda file: file.create_dataset(f"entry/{name}", **options)

    strings = h5py.string_dtype()
    inside = np.dtype([("s", strings)])
    cases = {
        "virtual": (virtual, "/entry/bad: is a virtual dataset"),
        "external storage": (
            add(shape=(len(SECRET),), dtype="u1", external=[(tmp_path / "secret.txt", 0, len(SECRET))]),
            "/entry/bad: keeps its values in an external file",
        ),
        "external link": (lambda f: f.__setitem__("entry/bad", h5py.ExternalLink(secret, "/x")), "link 'bad' leads out of the file"),
        "committed type": (committed, "/entry/bad: uses a committed type"),
        "named type": (lambda f: f.__setitem__("entry/bad", np.dtype("<i4")), "/entry/bad: is neither a group nor a dataset"),
        "reference": (lambda f: f["entry"].attrs.__setitem__("bad", f["entry/camera"].ref), "/entry@bad: has a type that the format"),
        "numbers of variable length": (add(shape=(2,), dtype=h5py.vlen_dtype("f4")), "/entry/bad: has a type that the format"),
        "null dataspace": (add(data=h5py.Empty("f4")), "/entry/bad: has a null dataspace"),
        "variable strings in chunks": (add(shape=(2,), dtype=strings, chunks=(1,)), "/entry/bad: variable strings in chunks"),
        "an unsigned fill value": (add(data=np.zeros(3), fillvalue=1.5), "/entry/bad: has a fill value that nothing signs"),
        "variable strings in a compound": (add(shape=(2,), dtype=inside), "/entry/bad: has a variable string inside"),
    }
    names = {}
    for number, (name, (more, _)) in enumerate(cases.items()):
        names[str(hsc.make_segment(run, f"{number}.h5", more=more).path)] = name
    _, out = hsc.verify(run.folder, root=root)
    reports = {names[item["path"]]: (item["level"], item["reason"]) for item in out["items"]}
    wrong = {name: reports[name] for name, (_, text) in cases.items() if reports[name][0] != 0 or text not in reports[name][1]}
    assert wrong == {}
    assert SECRET.decode() not in str(out)


def test_a_small_array_made_to_look_as_if_it_could_grow_is_refused(hsc, run, root):
    path = hsc.make_segment(run, "a.h5").path
    raw = path.read_bytes()
    version_rank_flags = b"\1\1\1" + bytes(5)
    before, after = (version_rank_flags + struct.pack("<QQ", 3, most) for most in (3, 5))
    assert before in raw
    path.write_bytes(raw.replace(before, after, 1))
    _, out = hsc.verify(path, root=root)
    assert out["items"][0]["level"] == 0
    assert "is not in chunks but could grow" in out["items"][0]["reason"]


def test_a_file_that_kills_the_library_is_level_zero_and_the_next_is_verified(hsc, tool, run, monkeypatch, root):
    bad, good = hsc.make_segment(run, "bad.h5").path, hsc.make_segment(run, "good.h5").path
    real = tool.verify_segment

    def crashing(path, roots, hashed):
        if path == str(bad):
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(path, roots, hashed)

    monkeypatch.setattr(tool, "verify_segment", crashing)
    items = list(tool.items([str(run.folder)], tool.load_roots(str(root))))
    assert [(i["path"], i["level"]) for i in items] == [(str(bad), 0), (str(good), 2)]
    assert items[0]["reason"] == "the HDF5 library refused the file (signal 11)"


def test_a_file_that_keeps_the_library_busy_is_stopped(hsc, tool, run, monkeypatch):
    part = hsc.make_segment(run, "a.h5")

    def endless(path, roots, hashed):
        while True:
            pass

    monkeypatch.setattr(tool, "verify_segment", endless)
    monkeypatch.setattr(tool, "SECONDS", 1)
    (item,) = tool.items([str(part.path)], tool.Roots())
    assert (item["level"], item["reason"]) == (0, "the HDF5 library refused the file (signal 24)")


def test_a_table_that_claims_more_memory_than_a_worker_has_is_refused(hsc, run, root):
    def huge(file):
        del file["entry/integrity/events"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((6 << 30,))
        h5py.h5d.create(file["entry/integrity"].id, b"events", h5py.h5t.STD_U8LE, space, plist)

    part = hsc.make_segment(run, "a.h5", after=huge)
    _, out = hsc.verify(part.path, root=root)
    assert out["items"][0]["level"] == 0
    assert "/entry/integrity/events: the HDF5 library cannot read it" in out["items"][0]["reason"]


def test_random_damage_always_ends_in_one_line_a_file(hsc, run, root, tmp_path):
    raw = hsc.make_segment(run, "a.h5").path.read_bytes()
    rng, folder = random.Random(1), tmp_path / "fuzz"
    folder.mkdir()
    for number in range(100):
        changed = bytearray(raw)
        for _ in range(rng.randint(1, 12)):
            at = rng.randrange(len(raw) - 8)
            changed[at : at + 8] = rng.choice([rng.randbytes(8), b"\xff" * 8, bytes(8), raw[(at + 8) % len(raw) :][:8].ljust(8, b"\0")])
        (folder / f"{number:03}.h5").write_bytes(changed)
    _, out = hsc.verify(folder, root=root)
    assert len(out["items"]) == 100
    assert all(item["level"] in (0, 1, 2) and item["reason"] for item in out["items"])
    assert sum(item["level"] == 0 for item in out["items"]) > 60
