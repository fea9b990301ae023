"""What stands above a run's picture."""

from __future__ import annotations

import pytest

from edge_agent.agent.crates import _title
from edge_agent.model import RunContext
from edge_agent.runs.book import RunEntry, Stage


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("", "Run 000012, lysozyme"),
        ("Cu Ka at 20 °C", "Run 000012, lysozyme: Cu Ka at 20 °C"),
        ("重ね合わせ", "Run 000012, lysozyme"),
        ("two\nlines", "Run 000012, lysozyme"),
    ],
)
def test_a_title_that_the_font_cannot_draw_stays_out_of_the_picture(title: str, shown: str) -> None:
    run = RunContext(b"r" * 16, 12, "lysozyme", "bench", 0, "lysozyme/bench/1970-01-01/000012", title=title)
    assert _title(RunEntry(run, Stage.OPEN, "session")) == shown
