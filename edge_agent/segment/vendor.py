"""Checks the series of vendor files of a run: their trees stand in the sidecar, the files beside it byte for byte."""

from __future__ import annotations

from edge_agent.seal.cbor import SealError
from edge_agent.seal.leaf import FileLeaf
from edge_agent.seal.sidecar import NamedFile
from edge_agent.segment.account import account
from edge_agent.segment.described import described
from edge_agent.segment.disk import check_vendor_file
from edge_agent.segment.heads import check_close_head
from edge_agent.segment.report import INTACT, SegmentReport
from edge_agent.segment.statement import Stated


def check_series(stated: Stated) -> tuple[SegmentReport, ...]:
    """A report for each series, its path empty, after all files were compared.

    Raises:
        SealError: the first tree or file that is not what was signed.
    """
    entries = [entry for entry in stated.statement.segments if entry.name is None]
    trees = stated.sidecar.trees
    if {entry.segment_id for entry in entries} != set(trees) or len(entries) != len(trees):
        raise SealError("the trees of vendor files are not those of the run statement")
    reports = []
    files: dict[str, FileLeaf] = {}
    for entry in entries:
        try:
            found = account(trees[entry.segment_id], (), files=True)
            check_close_head(stated.heads[entry.head], stated.trusted, entry.segment_id, trees[entry.segment_id])
            if twice := files.keys() & found.files.keys():
                raise SealError(f"{min(twice)}: a second leaf for one file")
            reports.append(described(SegmentReport("", INTACT, head=entry.head), found, stated.trusted))
        except SealError as error:
            raise SealError(f"segment {entry.ordinal} (vendor files): {error}") from error
        files |= found.files
    signed = {NamedFile(item.path, item.size, item.digest) for item in files.values()}
    if set(stated.statement.files) != signed or len(stated.statement.files) != len(signed):
        raise SealError("the vendor files of the run statement are not those of the FILE leaves")
    for item in files.values():
        check_vendor_file(stated.folder, item)
    return tuple(reports)
