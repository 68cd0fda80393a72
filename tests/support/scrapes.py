"""What the operators' door of a server says."""

import json
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server_process import ServerProcess
from tests.support.waiting import until


class Door:
    """The door of a server process that was started with OPS_PORT=0."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    async def ask(self, path: str) -> tuple[int, str]:
        """Status and text of the answer."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{await self._address()}{path}") as response:
            return response.status, await response.text()

    async def scrape(self) -> "Scrape":
        status, text = await self.ask("/metrics")
        assert status == 200, text
        return Scrape(text)

    async def _address(self) -> str:
        async def find() -> str:
            lines = self.server.log.read_text().splitlines()
            found = [json.loads(line) for line in lines if '"ops_listening"' in line]
            return str(found[-1]["address"]) if found else ""

        return await until(find)


class Scrape:
    """All samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: Any) -> float:
        """The sum of the samples of this name that have these labels."""
        found = [s for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        return sum(sample.value for sample in found)

    def labels(self, name: str) -> set[str]:
        """All values of one label, whatever it belongs to."""
        return {sample.labels[name] for sample in self.samples if name in sample.labels}
