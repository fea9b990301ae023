"""The reference landing service: takes items from enrolled agents, checks them, stores them, and signs that it did.

Invariants: a receipt is signed only after the stored bytes were hashed again, synced, and found under their final
name; a head is countersigned only after it was checked to continue what was countersigned before, and that is durable
before the answer; refused bytes are kept, with the reason. Foreign HDF5 is never parsed in this process. Two doors,
HTTPS (tus 1.0) and MQTT, lead to the one `receiver.Receiver`.
"""
