"""The system's notices: folders that appear while watchdog looks."""

import asyncio
from pathlib import Path

from adapters.files.notices import Notices


async def test_folders_that_appear_one_within_the_other_are_listened_to(tmp_path: Path) -> None:
    """watchdog meets the inner ones twice, warns of it, and would end as any thread does whose warnings are errors."""
    notices = Notices()
    await asyncio.to_thread(notices.start, tmp_path, recursive=True)
    try:
        for i in range(200):
            (tmp_path / f"{i}/b/c/d").mkdir(parents=True)
            await asyncio.sleep(0)
        last = tmp_path / "last.raw"
        touched: set[Path] = set()
        async with asyncio.timeout(20):
            last.write_text("1")
            while last not in touched:
                touched |= (await notices.take(20)).touched
    finally:
        await asyncio.to_thread(notices.stop)
