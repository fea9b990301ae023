"""The edge agent: captures instrument output, signs it at once, and lands it in the project space."""

__version__ = "0.1.0"
