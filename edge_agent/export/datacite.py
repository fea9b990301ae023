"""DataCite 4.5 in its JSON form, as a repository needs it to register a DOI. The DOI itself is the repository's to give."""

from __future__ import annotations

import json
from typing import Any

from edge_agent.export.about import About, about, language
from edge_agent.export.run_folder import RunFolder

SCHEMA = "http://datacite.org/schema/kernel-4"
NOBODY = "(:unkn)"
"""DataCite's own word for a value that is unknown (schema 4.5, appendix 3)."""


def datacite(run: RunFolder) -> bytes:
    """The record, UTF-8 JSON; what DataCite demands and nobody said is ``(:unkn)``."""
    said = about(run)
    made = {
        "schemaVersion": SCHEMA,
        "types": {"resourceTypeGeneral": "Dataset", "resourceType": "experimental data"},
        "creators": [_creator(said)],
        "titles": [{"title": said.title, "lang": language(said.title)}],
        "publisher": _publisher(said),
        "publicationYear": said.published[:4],
        "dates": _dates(said),
        "contributors": _contributors(said),
        "alternateIdentifiers": [{"alternateIdentifier": said.urn, "alternateIdentifierType": "URN"}],
        "relatedIdentifiers": _related(said),
        "sizes": [f"{said.size} B", f"{len(said.files)} files"],
        "formats": sorted({file.encoding for file in said.files}),
        "rightsList": [_rights(said)],
        "descriptions": [{"description": said.description, "descriptionType": "Abstract", "lang": language(said.description)}],
        "fundingReferences": _funding(said),
    }
    return json.dumps({k: v for k, v in made.items() if v}, ensure_ascii=False, indent=1).encode() + b"\n"


def _creator(said: About) -> dict[str, Any]:
    if said.name is None and said.orcid is None:
        return _organisation(said) | {"nameType": "Organizational"}
    made: dict[str, Any] = {"name": said.name or NOBODY, "nameType": "Personal"}
    if said.orcid is not None:
        made["nameIdentifiers"] = [
            {"nameIdentifier": f"https://orcid.org/{said.orcid}", "nameIdentifierScheme": "ORCID", "schemeUri": "https://orcid.org"}
        ]
    if said.organisation is not None:
        ror = {} if said.ror is None else {"affiliationIdentifier": said.ror, "affiliationIdentifierScheme": "ROR"}
        made["affiliation"] = [{"name": said.organisation, **ror}]
    return made


def _organisation(said: About) -> dict[str, Any]:
    made: dict[str, Any] = {"name": said.organisation or NOBODY}
    if said.ror is not None:
        made["nameIdentifiers"] = [{"nameIdentifier": said.ror, "nameIdentifierScheme": "ROR", "schemeUri": "https://ror.org"}]
    return made


def _publisher(said: About) -> dict[str, Any]:
    ror = {} if said.ror is None else {"publisherIdentifier": said.ror, "publisherIdentifierScheme": "ROR", "schemeUri": "https://ror.org"}
    return {"name": said.organisation or NOBODY, **ror}


def _contributors(said: About) -> list[dict[str, Any]]:
    if said.organisation is None:
        return []
    return [_organisation(said) | {"nameType": "Organizational", "contributorType": "HostingInstitution"}]


def _dates(said: About) -> list[dict[str, str]]:
    span = f"{said.started[:19]}Z/{said.ended[:19]}Z" if said.ended else said.started[:10]
    made = [{"date": span, "dateType": "Collected"}, {"date": said.published, "dateType": "Issued"}]
    return made if said.available is None else [*made, {"date": said.available, "dateType": "Available"}]


def _related(said: About) -> list[dict[str, str]]:
    made = [
        {"relatedIdentifier": each["pid"], "relatedIdentifierType": _kind(each["pid"]), "relationType": "IsCollectedBy"}
        for each in said.instruments
        if isinstance(each["pid"], str)
    ]
    if said.igsn is not None:
        made.append({"relatedIdentifier": said.igsn, "relatedIdentifierType": "IGSN", "relationType": "IsDerivedFrom"})
    return made


def _kind(pid: str) -> str:
    return next((kind for part, kind in (("doi.org/", "DOI"), ("hdl.handle.net/", "Handle"), ("://", "URL")) if part in pid), "URN")


def _rights(said: About) -> dict[str, str]:
    made = {"rights": said.licence or f"No licence is granted; access: {said.access.value}"}
    return made if said.licence_page is None else made | {"rightsUri": said.licence_page}


def _funding(said: About) -> list[dict[str, str]]:
    if said.funder is None:
        return []
    return [{"funderName": said.funder} | ({} if said.grant is None else {"awardNumber": said.grant})]
