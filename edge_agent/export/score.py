"""How ready a run is for people and programs that were not there: points for what its record says, and what to add for the rest.

Nothing is guessed: a point is given for what stands in the record, its amendments, its files. Some points are shared by all of a kind
(instruments, streams): half of them described give half the points. The weights are ours; they follow what FAIR and Croissant ask for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.export.amended import amended
from edge_agent.export.run_folder import MANIFEST, RunFolder, text
from edge_agent.words import t


@dataclass(frozen=True, slots=True)
class Check:
    """One question: points to be had, share of them that the run has (0 to 1), what it is about, what to do for the rest."""

    key: str
    points: int
    share: float
    about: str
    add: str

    @property
    def got(self) -> float:
        """The points that the run has."""
        return self.points * self.share


@dataclass(frozen=True, slots=True)
class Score:
    """All checks, and each field of the record that is not known, with the reason."""

    checks: tuple[Check, ...]
    unknown: tuple[tuple[str, str], ...]

    @property
    def total(self) -> int:
        """0 to 100."""
        return round(100 * sum(check.got for check in self.checks) / sum(check.points for check in self.checks))


def score(run: RunFolder) -> Score:
    """Judge a complete run."""
    record = amended(run)
    return Score((*_who(record), *_what(record), *_data(run, record), *_rights(record)), tuple(unknown(record)))


def unknown(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a record that is null, and why."""
    if isinstance(value, Mapping):
        if value.get("value", "") is None and "reason" in value:
            yield path, str(value["reason"])
            return
        for key, inner in value.items():
            if not key.startswith("@"):
                yield from unknown(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from unknown(inner, f"{path}[{index}]")


def _who(record: Mapping[str, Any]) -> Iterator[Check]:
    person, place, project = record["operator"], record["organisation"], record["project"]
    orcid, name = (text(person.get(key)) for key in ("orcid", "name"))
    yield Check("operator", 8, 1 if orcid else 0.5 if name else 0, t("who measured"),
                t("give --user 'NAME <ORCID>' with the session"))  # fmt: skip
    yield Check("organisation", 4, _known(place, "name", "ror"), t("where, with the ROR of the organisation"),
                t('write organisation = {{ name = "...", ror = "https://ror.org/..." }} into the configuration'))  # fmt: skip
    claimed = project["name"] != "unclaimed"
    yield Check("project", 6, 1 if claimed else 0, t("for which project"), t("claim it: edge-agent claim RUN --project P"))
    number = bool(text(project["proposal"]) or text(project["grant"]))
    yield Check("grant", 4, (number + bool(text(project["funder"]))) / 2, t("grant or proposal, and funder"),
                t("write grant or proposal, and funder, into [projects.{project}]", project=project["name"]))  # fmt: skip


def _what(record: Mapping[str, Any]) -> Iterator[Check]:
    sample, instruments = record["sample"], record["instruments"]
    igsn, local = (text(sample[key]) for key in ("igsn", "name"))
    yield Check("title", 4, 1 if text(record["title"]) else 0, t("what the run is, in words"), t("give --title with the session"))
    yield Check("sample", 8, 1 if igsn else 0.5 if local else 0, t("the sample, with its IGSN"),
                t("give --sample 'NAME <IGSN>', or later: edge-agent amend RUN --set sample.igsn=..."))  # fmt: skip
    yield Check("instrument-pid", 8, _all(instruments, "pid"), t("a persistent identifier of each instrument"),
                t("write pid into each [instrument.NAME]"))  # fmt: skip
    yield Check("instrument", 6, _all(instruments, "manufacturer", "model", "serialNumber"), t("maker, model and serial number of each"),
                t("write maker, model and serial_number into each [instrument.NAME] that does not say them itself"))  # fmt: skip
    yield Check("calibration", 4, _all([each["calibration"] for each in instruments], "identifier"), t("the calibration of each"),
                t("write calibration into each [instrument.NAME]"))  # fmt: skip


def _data(run: RunFolder, record: Mapping[str, Any]) -> Iterator[Check]:
    numeric = [stream for stream in run.streams if stream.numeric]
    without = ", ".join(stream.key for stream in numeric if not stream.unit)
    yield Check("units", 8, _share([bool(stream.unit) for stream in numeric]), t("a unit of every number"),
                t("say the unit of {streams} in its instrument's table", streams=without))  # fmt: skip
    open_ends = [stream.key for stream in run.streams if stream.unknown_gaps]
    yield Check("complete", 6, 0 if not run.streams else 1 - len(open_ends) / len(run.streams), t("how much is missing, as a number"),
                t("gaps of unknown size in {streams}: use a source that counts its items", streams=", ".join(open_ends)))  # fmt: skip
    clock = record["clock"]
    yield Check("clock", 6, (clock["synced"] is True) / 2 + _known(clock, "offsetNs", "uncertaintyNs") / 2,
                t("how far the clock is off"), t("let chrony keep this machine's clock"))  # fmt: skip
    names = {file.name for file in run.files}
    yield Check("checksums", 6, 1 if MANIFEST in names else 0, t("a checksum of every file"), t("copy the whole run folder"))
    signed = f"{run.name}.hsc" in names
    yield Check("signed", 8, 1 if signed else 0, t("the signatures"), t("copy the whole run folder"))


def _rights(record: Mapping[str, Any]) -> Iterator[Check]:
    policy, project = record["policy"], record["project"]["name"]
    yield Check("licence", 8, 1 if text(policy["licence"]) else 0, t("under which licence"),
                t('write licence = "CC-BY-4.0", or another, into [projects.{project}]', project=project))  # fmt: skip
    explained = policy["label"]["access"] == "open" or isinstance(policy.get("reasons"), list)
    why = t("write reasons into [projects.{project}]: an access that is explained can be decided on later", project=project)
    yield Check("access", 4, 1 if explained else 0, t("why it is not open"), why)
    yield Check("software", 2, _known(record["software"], "configDigest", "lockDigest"), t("which program, with digests"),
                t("install a released package"))  # fmt: skip


def _known(of: Mapping[str, Any], *keys: str) -> float:
    return _share([not isinstance(of.get(key, {}), Mapping) for key in keys])


def _all(things: Sequence[Mapping[str, Any]], *keys: str) -> float:
    return sum(_known(thing, *keys) for thing in things) / len(things) if things else 0.0


def _share(answers: Sequence[bool]) -> float:
    """Of the questions those that are answered; all, where there is nothing to ask."""
    return sum(answers) / len(answers) if answers else 1.0
