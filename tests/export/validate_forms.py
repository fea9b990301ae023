"""Judges forms by the validators of their own communities; runs in an environment of its own. Prints a JSON
list with an object for each folder: form to complaints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datacite.schema45
import mlcroissant
import prov.model


def croissant(path: Path) -> list[str]:
    try:
        dataset = mlcroissant.Dataset(jsonld=path)
        return [] if dataset.metadata.distribution else ["it has no files"]
    except mlcroissant.ValidationError as error:
        return str(error).splitlines()


def doi(path: Path) -> list[str]:
    return [error.message for error in datacite.schema45.validator.iter_errors(json.loads(path.read_text()))]


def provenance(path: Path) -> list[str]:
    document = prov.model.ProvDocument.deserialize(str(path), format="json")
    found = {record.get_type().localpart for record in document.get_records()}
    wanted = {"Entity", "Activity", "Agent", "Generation", "Association"}
    named = {identifier for record in document.get_records(prov.model.ProvElement) for identifier in [record.identifier]}
    loose = {
        str(value)
        for record in document.get_records(prov.model.ProvRelation)
        for _, value in record.formal_attributes
        if isinstance(value, prov.model.QualifiedName) and value not in named
    }
    return [f"no {name}" for name in sorted(wanted - found)] + [f"{name} is not described" for name in sorted(loose)]


def main(*folders: str) -> None:
    judges = {"croissant.json": croissant, "datacite.json": doi, "prov.json": provenance}
    said = [{ending: judge(next(Path(folder).glob(f"*.{ending}"))) for ending, judge in judges.items()} for folder in folders]
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
