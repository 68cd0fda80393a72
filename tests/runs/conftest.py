"""Plans as a policy would make them, and providers that are not waited for long."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aiworkspace_server.app import App
from aiworkspace_server.llm.clock import Clocks
from aiworkspace_server.policies.plan import Plan, Plans
from tests.support.providers import use_clocks

PlanFor = Callable[..., None]


@pytest.fixture
def plan_for(monkeypatch: pytest.MonkeyPatch) -> PlanFor:
    """`plan_for("anthropic/claude-haiku-4-5", hedge_after_seconds=1)`: models to fall back to, and what differs."""
    make = Plans.make

    def plan_for(*fallbacks: str, **fields: Any) -> None:
        async def planned(plans: Plans, org_id: Any, workspace_id: Any, model: str, *rest: Any, **chosen: Any) -> Plan:
            plan = await make(plans, org_id, workspace_id, model, *rest, **chosen)
            others = [await make(plans, org_id, workspace_id, other, *rest, **chosen) for other in fallbacks]
            return replace(plan, targets=(*plan.targets, *(other.targets[0] for other in others)), **fields)

        monkeypatch.setattr(Plans, "make", planned)

    return plan_for


@pytest.fixture
def short_clocks(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """For providers that fall silent."""
    use_clocks(app, Clocks(5, 2, 1.5), monkeypatch)
