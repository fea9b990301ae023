"""Who this agent is: its identity key on disk, its enrolment at a landing service, its session keys.

Invariants: private keys are made here and never leave; a certificate is kept only if the root that the token named
issued it for our key; files are replaced atomically, so an interrupted enrolment or renewal leaves the previous
state.
"""
