from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from firmware_sim.launch import Device, DeviceError
from firmware_sim.vendor import tiff

StartDevice = Callable[..., Device]


def test_every_file_is_what_the_truth_says(device: StartDevice, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    vendor = device("vendor", "--folder", str(folder), "--rate", "40", "--count", "7")
    assert vendor.ready["folder"] == str(folder.resolve())
    assert vendor.wait_stopped() == {"files": 7}
    items = vendor.read_truth().of("files")
    assert [item.n for item in items] == list(range(1, 8))
    assert [item.path for item in items][:3] == ["scan_0001.csv", "image_0001.tif", "scan_0002.csv"]
    assert {item.path for item in items} == {path.name for path in folder.iterdir()}
    for item in items:
        assert item.path is not None
        content = (folder / item.path).read_bytes()
        assert (item.size, item.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert (folder / item.path).stat().st_mtime_ns == item.t


def test_the_images_open_as_tiff(tmp_path: Path) -> None:
    image = np.arange(12 * 20, dtype=np.uint16).reshape(12, 20)
    (tmp_path / "a.tif").write_bytes(tiff(image))
    with Image.open(tmp_path / "a.tif") as opened:
        assert np.array_equal(np.asarray(opened), image)


def test_faults_leave_an_empty_and_an_unfinished_file(device: StartDevice, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    faults = ("--fault", "zero@0.1", "--fault", "abandon@0.1")
    vendor = device("vendor", "--folder", str(folder), "--rate", "40", "--count", "20", *faults)
    vendor.wait_stopped()
    truth = vendor.read_truth()
    assert sorted(fault.kind for fault in truth.faults) == ["abandon", "zero"]
    assert [item.size for item in truth.of("files")].count(0) == 1
    unfinished = {path.name for path in folder.iterdir()} - {item.path for item in truth.items}
    assert len(unfinished) == 1


def test_a_folder_with_scans_is_not_written_over(device: StartDevice, tmp_path: Path) -> None:
    (tmp_path / "scan_0001.csv").write_text("precious")
    with pytest.raises(DeviceError, match="give an empty --folder"):
        device("vendor", "--folder", str(tmp_path))
    assert (tmp_path / "scan_0001.csv").read_text() == "precious"
