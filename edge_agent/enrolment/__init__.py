"""Who this agent is: its identity key on disk, and its enrolment at a landing service.

Invariants: private keys are made here and never leave; a certificate is kept only if the root that the token named
issued it for our key; files are replaced atomically, so an interrupted renewal leaves a state that works.
"""

from edge_agent.enrolment.client import enrol, read_token, renew, token_words
from edge_agent.enrolment.identity import Enrolment, Identity, load_enrolment, open_identity

__all__ = ["Enrolment", "Identity", "enrol", "load_enrolment", "open_identity", "read_token", "renew", "token_words"]
