"""Watched folders: what a vendor's program wrote is carried byte for byte, once it is finished."""

from adapters.files.adapter import FilesAdapter
from adapters.files.config import FilesConfig

__all__ = ["FilesAdapter", "FilesConfig"]
