"""Provenance: who made what with what, and who may have it.

`policy` decides before anything leaves; `record` is the run record; `crate` and `preview` are forms of it for people and other systems.
"""
