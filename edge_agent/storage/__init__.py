"""The file-system calls that durability rests on, behind one small interface.

The record path, the spool, the book in files and the agent log ask a `Storage` and nothing else for what has to survive a crash, so the
same code runs on the disk (`DISK`), on a model in memory that forgets what was not synced (`memory.Memory`), and on either of them under
faults (`faults.Faults`). What needs several calls in the right order is in `durable`. SQLite and, on the disk, HDF5 use their own
drivers.
"""

from edge_agent.storage.contract import Storage, disk_error
from edge_agent.storage.disk import DISK, Disk

__all__ = ["DISK", "Disk", "Storage", "disk_error"]
