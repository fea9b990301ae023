"""Simulated instruments on real sockets and ptys, each with a ledger of what it sent.

Every instrument is a process of its own (`firmware-sim NAME`), speaks its protocol through that protocol's own
library and shares no code with the agent: an honest peer must be able to disagree with it. `firmware_sim.truth`
reads the ledgers, `firmware_sim.launch` starts instruments from tests and from the demo.
"""
