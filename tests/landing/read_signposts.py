"""Runs in an environment with the `signposting` package: what it finds at an address, by HTTP headers or in a link set, from one page on."""

from __future__ import annotations

import json
import sys
import warnings

from signposting.linkset import find_signposting_linkset
from signposting.resolver import find_signposting_http

warnings.simplefilter("error")
kind, address, context = sys.argv[1:]
found = find_signposting_http(address) if kind == "header" else find_signposting_linkset(address)
there = [s for s in found.signposts if kind == "header" or str(s.context) == context]
print(json.dumps([[str(s.rel), str(s.target), str(s.type or ""), sorted(str(p) for p in s.profiles)] for s in there]))
