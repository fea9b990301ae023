"""The ready profiles of `config/`, each started as it stands against simulated instruments; only addresses and folders are put in."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from firmware_sim.launch import Device
from tests.firmware_sim.bench import judged, recording

PROFILES = Path(__file__).parents[2] / "config"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def put_in(name: str, folder: Path, **addresses: str) -> str:
    """The profile with the addresses of the simulated instruments in the place of the examples, a spool and a target below the folder."""
    text = (PROFILES / f"{name}.toml").read_text(encoding="utf-8")
    places = {
        '"/var/lib/edge-agent"': f'"{folder / "spool"}"', 'dir = "spool"': f'dir = "{folder / "spool"}"', '"20 GB"': '"1 MB"',
        'landing = "https://landing.example.ac.jp"': f'folder = "{folder / "space"}"',
        'landing = "https://127.0.0.1:8443"': f'folder = "{folder / "space"}"',
    }  # fmt: skip
    for old, new in places.items():
        text = text.replace(old, new)
    for old, new in addresses.items():
        assert old in text, f"{name}.toml has no {old}"
        text = text.replace(old, new)
    return text


def same(folder: Path, devices: dict[str, Device], streams: dict[str, dict[str, str]]) -> None:
    """What landed under these keys is what the devices sent; `streams`: device to truth stream to key."""
    _, verdicts = judged(folder, devices, {name: tuple(own) for name, own in streams.items()}, keys=streams)
    for key, verdict in verdicts.items():
        assert verdict.same, (key, verdict)
        assert verdict.landed == verdict.sent > 0, (key, verdict)


def test_a_synchrotron_beamline_records_while_the_shutter_is_open_for_the_proposal_of_a_pv(tmp_path: Path) -> None:
    options = ("--prefix", "BL05", "--camera", "--rows", "48", "--columns", "64", "--rate", "20")
    with Device("ioc", *options, truth=tmp_path / "ioc.jsonl", hold=True) as ioc:
        ready = ioc.ready
        addresses = {
            "ca://192.168.5.10:5064": f"ca://127.0.0.1:{ready['port']}",
            "pva://192.168.5.10:5075": f"pva://127.0.0.1:{ready['pva_port']}",
            "pva://192.168.5.10:5076": f"pva://127.0.0.1:{ready['camera']['port']}",
        }
        text = put_in("beamline", tmp_path / "agent", **addresses)
        repeater = {key: value for key, value in ready["env"].items() if "REPEATER" in key}
        with recording(tmp_path / "agent", text, repeater) as agent:
            agent.until_connected("eiger", "axes", axes=7)
            agent.until(lambda: "belong to project 2026A0001" in agent.log())
            ioc.command("shutter open")
            agent.until(lambda: any(r["kind"] == "trigger" for r in agent.ask("/status")["runs"]))
            ioc.go()
            ioc.command("set MOTOR 14")
            agent.until(lambda: agent.arrived().get("eiger/image", 0) >= 40)
            ioc.stop()
            agent.until_quiet()
            (run,) = (run for run in agent.ask("/status")["runs"] if run["kind"] == "trigger")
            assert run["project"] == "2026A0001"
        streams = {
            "ioc": {"image": "eiger/image", "I0": "axes/BL05_I0", "TEMP": "axes/sample_temperature", "MOTOR_RBV": "axes/BL05_MOTOR_RBV"},
        }  # fmt: skip
        same(tmp_path / "agent", {"ioc": ioc}, streams)


def test_a_continuous_measurement_lands_in_the_run_of_the_day(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ioc = stack.enter_context(Device("ioc", "--prefix", "BL01", "--rate", "20", truth=tmp_path / "ioc.jsonl", hold=True))
        cryostat = stack.enter_context(Device("thermostat", "--tcp", truth=tmp_path / "t.jsonl"))
        furnace = stack.enter_context(Device("furnace", "--rate", "5", truth=tmp_path / "f.jsonl", hold=True))
        addresses = {
            "ca://192.168.1.10:5064": f"ca://127.0.0.1:{ioc.ready['port']}",
            "socket://192.168.1.20:4001": cryostat.ready["url"],
            "opc.tcp://192.168.1.30:4840": furnace.ready["endpoint"],
        }
        repeater = {key: value for key, value in ioc.ready["env"].items() if "REPEATER" in key}
        with recording(tmp_path / "agent", put_in("neutron", tmp_path / "agent", **addresses), repeater) as agent:
            agent.until_connected("counters", "cryostat", "furnace", counters=3)
            ioc.go()
            furnace.go()
            agent.until(lambda: agent.arrived().get("cryostat/temperature", 0) >= 3 and agent.arrived().get("counters/BL01_COUNT", 0) >= 40)
            for device in (ioc, furnace, cryostat):
                device.stop()
            agent.until_quiet()
            (run,) = agent.ask("/status")["runs"]
            assert (run["kind"], run["project"]) == ("daily", "BL01-continuous")
        streams = {
            "ioc": {"COUNT": "counters/BL01_COUNT", "I0": "counters/BL01_I0"}, "cryostat": {"temperature": "cryostat/temperature"},
            "furnace": {"Temperature": "furnace/Temperature"},
        }  # fmt: skip
        same(tmp_path / "agent", {"ioc": ioc, "cryostat": cryostat, "furnace": furnace}, streams)


def test_a_watched_folder_carries_what_a_diffractometer_writes(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    with Device("vendor", "--folder", str(folder / "scans"), "--rate", "4", "--count", "6", truth=tmp_path / "v.jsonl", hold=True) as vendor:
        with recording(folder, put_in("watched-folder", folder)) as agent:
            agent.until_connected("diffractometer")
            agent.ask("/session/start", "POST", project="p", group="diffractometer")
            vendor.go()
            vendor.wait_stopped()
            agent.until(lambda: agent.arrived().get("diffractometer/files", 0) >= 6)
            agent.ask("/session/stop", "POST", group="diffractometer", outcome="complete")
            agent.until_landed()
        same(folder, {"vendor": vendor}, {"vendor": {"files": "diffractometer/files"}})


def test_a_bench_of_serial_instruments(tmp_path: Path) -> None:
    with ExitStack() as stack:
        balance = stack.enter_context(Device("balance", truth=tmp_path / "b.jsonl"))
        thermostat = stack.enter_context(Device("thermostat", "--tcp", truth=tmp_path / "t.jsonl"))
        spectrometer = stack.enter_context(Device("spectrometer", "--tcp", "--form", "bare", truth=tmp_path / "s.jsonl"))
        pump = stack.enter_context(Device("pump", "--tcp", truth=tmp_path / "p.jsonl"))
        addresses = {
            "/dev/serial/by-id/usb-FTDI_A9XYZ-if00": balance.ready["path"],
            "socket://127.0.0.1:4001": thermostat.ready["url"],
            "socket://127.0.0.1:4003": spectrometer.ready["url"],
            "socket://127.0.0.1:4004": pump.ready["url"],
        }
        text = put_in("bench-serial", tmp_path / "agent", **addresses)
        # Of an instrument that nobody simulates here the adapter only says that it does not answer.
        with recording(tmp_path / "agent", text) as agent:
            wanted = ("balance/mass", "thermostat/temperature", "spectrometer/spectrum", "pump/speed")
            agent.until(lambda: all(agent.arrived().get(key, 0) >= 3 for key in wanted))
            devices = {"balance": balance, "thermostat": thermostat, "spectrometer": spectrometer, "pump": pump}
            for device in devices.values():
                device.stop()
            agent.until_quiet()
        streams = {name: {key.partition("/")[2]: key} for name, key in zip(devices, wanted, strict=True)}
        same(tmp_path / "agent", devices, streams)


def test_an_automated_lab_records_a_lads_device_by_its_name(tmp_path: Path) -> None:
    with Device("lads", "--rate", "10", truth=tmp_path / "l.jsonl", hold=True) as incubator:
        text = put_in("lads", tmp_path / "agent", **{"opc.tcp://192.168.1.40:4840": incubator.ready["endpoint"]})
        with recording(tmp_path / "agent", text) as agent:
            agent.until_connected("incubator")
            incubator.go()
            agent.until(lambda: sum(count >= 20 for count in agent.arrived().values()) >= 3)
            incubator.stop()
            agent.until_quiet()
            keys = [key for key in agent.arrived() if key.endswith("CurrentValue") and "Temperature" in key]
            assert len(keys) == 1, agent.arrived()
        same(tmp_path / "agent", {"lads": incubator}, {"lads": {"Temperature": keys[0]}})


def test_every_profile_is_explained_in_japanese_and_english() -> None:
    for profile in ("beamline", "neutron", "watched-folder", "bench-serial", "lads"):
        comments = " ".join(line.partition("# ")[2] for line in (PROFILES / f"{profile}.toml").read_text(encoding="utf-8").splitlines())
        assert any("ぁ" <= c <= "ん" for c in comments), profile
        assert " the " in comments, profile

