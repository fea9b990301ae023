"""The spool: what has been sealed and has not been proved elsewhere yet.

Outbox, conservation ledger, retention, disk guard, quarantine and a small durable state, over one SQLite file with
one writer connection. The files are the truth; the database can be rebuilt from them. Nothing is freed without proof
and nothing that cannot be parsed is deleted.
"""

from edge_agent.spool.disk import DiskGuard, DiskLimits, DiskReport, DiskState
from edge_agent.spool.ledger import Counts, StreamTotals, lost_text
from edge_agent.spool.outbox import Entry
from edge_agent.spool.spool import Spool

__all__ = ["Counts", "DiskGuard", "DiskLimits", "DiskReport", "DiskState", "Entry", "Spool", "StreamTotals", "lost_text"]
