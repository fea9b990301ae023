"""JPCOAR schema 2.0: what repositories give to IRDB and CiNii Research shows, with the common items for publicly funded data.

The order of elements and the vocabularies are those of the schema (jpcoar_scm.xsd) and of its sample for the Cabinet Office's items.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from edge_agent.export.about import About, about, language
from edge_agent.export.run_folder import RunFolder
from edge_agent.model import Access

SPACES = {
    "jpcoar": "https://github.com/JPCOAR/schema/blob/master/2.0/", "dc": "http://purl.org/dc/elements/1.1/",
    "dcterms": "http://purl.org/dc/terms/", "datacite": "https://schema.datacite.org/meta/kernel-4/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "xml": "http://www.w3.org/XML/1998/namespace",
}  # fmt: skip
RIGHT = "http://purl.org/coar/access_right/"
ACCESS = {
    Access.OPEN: ("open access", f"{RIGHT}c_abf2"), Access.SHARED: ("restricted access", f"{RIGHT}c_16ec"),
    Access.CLOSED: ("metadata only access", f"{RIGHT}c_14cb"),
}  # fmt: skip
EMBARGOED = ("embargoed access", f"{RIGHT}c_f1cf")
EXPERIMENTAL = ("experimental data", "http://purl.org/coar/resource_type/63NG-B465")


def jpcoar(run: RunFolder) -> bytes:
    """The record, UTF-8 XML."""
    said = about(run)
    root = ET.Element(_name("jpcoar:jpcoar"))
    _words(root, "dc:title", said.title)
    _creator(root, said)
    if said.organisation is not None:
        host = _add(root, "jpcoar:contributor", contributorType="HostingInstitution")
        _ror(host, said)
        _words(host, "jpcoar:contributorName", said.organisation, nameType="Organizational")
    access, uri = EMBARGOED if said.embargo is not None else ACCESS[said.access]
    _add(root, "dcterms:accessRights", access, **{"rdf:resource": uri})
    rights = {} if said.licence_page is None else {"rdf:resource": said.licence_page}
    _words(root, "dc:rights", said.licence or "No licence is granted.", **rights)
    _words(root, "datacite:description", said.description, descriptionType="Abstract")
    if said.organisation is not None:
        _words(root, "dc:publisher", said.organisation)
    kind, day = ("Issued", said.published) if said.available is None else ("Available", said.available)
    _add(root, "datacite:date", day, dateType=kind)
    if said.ended:
        _add(root, "datacite:date", f"{said.started[:10]}/{said.ended[:10]}", dateType="Collected")
    _add(root, "dc:type", EXPERIMENTAL[0], **{"rdf:resource": EXPERIMENTAL[1]})
    _add(root, "jpcoar:identifier", said.urn, identifierType="URI")
    if said.igsn is not None:
        sample = _add(root, "jpcoar:relation", relationType="isDerivedFrom")
        _add(sample, "jpcoar:relatedIdentifier", f"https://doi.org/{said.igsn}", identifierType="DOI")
    _funding(root, said)
    _files(root, said)
    for prefix, space in SPACES.items():
        ET.register_namespace(prefix, space)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _creator(root: ET.Element, said: About) -> None:
    if said.name is None and said.orcid is None:
        return
    creator = _add(root, "jpcoar:creator")
    if said.orcid is not None:
        page = f"https://orcid.org/{said.orcid}"
        _add(creator, "jpcoar:nameIdentifier", page, nameIdentifierScheme="ORCID", nameIdentifierURI=page)
    if said.name is not None:
        _words(creator, "jpcoar:creatorName", said.name, nameType="Personal")
    if said.organisation is not None:
        place = _add(creator, "jpcoar:affiliation")
        _ror(place, said)
        _words(place, "jpcoar:affiliationName", said.organisation)


def _ror(parent: ET.Element, said: About) -> None:
    if said.ror is not None:
        _add(parent, "jpcoar:nameIdentifier", said.ror, nameIdentifierScheme="ROR", nameIdentifierURI=said.ror)


def _funding(root: ET.Element, said: About) -> None:
    if said.funder is None:
        return
    funding = _add(root, "jpcoar:fundingReference")
    _words(funding, "jpcoar:funderName", said.funder)
    if said.grant is not None:
        _add(funding, "jpcoar:awardNumber", said.grant, awardNumberType="JGN")


def _files(root: ET.Element, said: About) -> None:
    """One element for each kind of file: a run may have thousands."""
    for encoding in sorted({file.encoding for file in said.files}):
        size = sum(file.size for file in said.files if file.encoding == encoding)
        file = _add(root, "jpcoar:file")
        _add(file, "jpcoar:mimeType", encoding)
        _add(file, "jpcoar:extent", f"{size} B")


def _words(parent: ET.Element, name: str, words: str, **attributes: str) -> ET.Element:
    return _add(parent, name, words, **{"xml:lang": language(words)}, **attributes)


def _add(parent: ET.Element, name: str, words: str = "", **attributes: str) -> ET.Element:
    made = ET.SubElement(parent, _name(name), {_name(key): value for key, value in attributes.items()})
    made.text = words or None
    return made


def _name(short: str) -> str:
    prefix, colon, name = short.partition(":")
    return f"{{{SPACES[prefix]}}}{name}" if colon else short
