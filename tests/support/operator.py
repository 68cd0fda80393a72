"""The commands of the operator, in processes of their own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping


async def operate(values: Mapping[str, object], *arguments: str) -> str:
    """What a command prints, with these settings."""
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "aiworkspace_server", *arguments],
        env={**os.environ, **{name.upper(): str(value) for name, value in values.items()}},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
