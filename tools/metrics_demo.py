"""The dashboard in the terminal: `make metrics-demo`.

It starts a server with two workers and its own databases, lets people talk, upload and err, scrapes /metrics, and shows
what each panel of deploy/grafana/dashboard.json would: the same expressions, evaluated here.
"""

import argparse
import asyncio
import json
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from aiworkspace_client import AiWorkspaceError, AsyncClient
from tools.own_server import ServerFailedError, own_server
from tools.promql import Scrape, evaluate

DASHBOARD = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "dashboard.json"
SCRAPE_SECONDS = 2.0
KEPT_SECONDS = 300.0
PEOPLE = 6
PASSWORD = "correct horse battery staple"
MOST_SERIES = 4  # of one panel

console = Console(highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Show the dashboard of a server under load.")
    parser.add_argument("--seconds", type=float, default=30, help="how long (default: 30)")
    seconds = parser.parse_args().seconds
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        with console.status("Starting a server with two workers and its own databases") as status:
            settings = {"OPS_PORT": str(port), "RATE_LIMIT_FACTOR": "100", "ECHO_TOKENS_PER_SECOND": "50"}
            with own_server(lambda: None, "--workers", "2", **settings) as target:
                status.stop()
                asyncio.run(watch(target, f"http://127.0.0.1:{port}/metrics", seconds))
                status.start()
                status.update("Stopping the server")
    except KeyboardInterrupt:
        sys.exit(130)
    except (ServerFailedError, AiWorkspaceError) as error:
        sys.exit(f"error: {error}")
    console.print("[bold green]Done.[/] The same for Prometheus and Grafana: deploy/. Every metric: docs/metrics.md.")


async def watch(target: str, metrics: str, seconds: float) -> None:
    """Show the dashboard for so long, while people use the server."""
    scrapes: deque[Scrape] = deque(maxlen=round(KEPT_SECONDS / SCRAPE_SECONDS))
    end = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        people = [group.create_task(_use(target, number)) for number in range(PEOPLE)]
        with Live(console=console, refresh_per_second=2) as live:
            while time.monotonic() < end:
                async with session.get(metrics) as response:
                    scrapes.append(Scrape.parse(time.monotonic(), await response.text()))
                live.update(show(scrapes))
                await asyncio.sleep(SCRAPE_SECONDS)
        for person in people:
            person.cancel()


def show(scrapes: Sequence[Scrape]) -> Group:
    """Return a table for each row of the dashboard."""
    tables: list[Table] = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            tables.append(
                Table(title=panel["title"], title_justify="left", show_header=False, box=None, padding=(0, 1))
            )
            tables[-1].add_column(min_width=34, style="dim")
            tables[-1].add_column()
        else:
            tables[-1].add_row(panel["title"], _cell(panel, scrapes))
    return Group(*tables)


def _cell(panel: Mapping[str, Any], scrapes: Sequence[Scrape]) -> str:
    [target] = panel["targets"]
    vector = evaluate(target["expr"], scrapes)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    shown = sorted(((value, labels) for labels, value in vector.items() if value), key=_rank)
    texts = [f"{_named(target['legendFormat'], dict(labels))} {_number(value, unit)}" for value, labels in shown]
    more = f" and {len(texts) - MOST_SERIES} more" if len(texts) > MOST_SERIES else ""
    return ", ".join(texts[:MOST_SERIES]) + more if texts else ("0" if vector else "-")


def _rank(series: tuple[float, frozenset[tuple[str, str]]]) -> tuple[float, list[tuple[str, str]]]:
    return -series[0], sorted(series[1])


def _named(legend: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value.removeprefix("aiworkspace.v1."))
    return legend


def _number(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value * 1000:,.1f} ms" if value < 1 else f"{value:,.1f} s"
    return f"{value:,.1f}/s" if unit == "reqps" else f"{value:,.4g}"


async def _use(target: str, number: int) -> None:
    """Be a person who talks, uploads, and asks for what is not there."""
    async with AsyncClient(target) as client:
        email = f"person{number}@example.com"
        await client.auth.register(email=email, password=PASSWORD, display_name=f"Person {number}")
        org = await client.orgs.create(name=f"Museum {number}")
        workspace = await client.workspaces.create(org_id=org.org_id, name="Exhibition")
        while True:
            conversation = await client.chat.create_conversation(workspace.workspace_id, model="echo/echo")
            async with client.chat.send(conversation.conversation_id, "Tell me about the difference engine.") as stream:
                await stream.final_message()
            text = f"The difference engine {uuid.uuid4()} is cranked every Tuesday at three."
            await client.documents.upload(workspace.workspace_id, text.encode(), name="guide.txt")
            with suppress(AiWorkspaceError):
                await client.orgs.get(str(uuid.uuid4()))


if __name__ == "__main__":
    main()
