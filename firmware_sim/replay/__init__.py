"""`firmware-sim replay RUN`: plays a landed run back over its original protocols.

It knows a run by `docs/layout.md` and reads it through h5py; it shares no code with the agent that wrote it.
"""
