"""``python -m edge_agent.cli``: the same as the command ``edge-agent``."""

import sys

from edge_agent.cli import main

sys.exit(main())
