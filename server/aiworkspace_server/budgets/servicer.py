"""BudgetService: proto in and out, one transaction per call."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from aiworkspace.v1 import budget_pb2 as pb
from aiworkspace.v1 import common_pb2
from aiworkspace.v1.budget_pb2_grpc import BudgetServiceServicer

from ..auth.authority import current_principal
from ..kit.context import caller_id, current, tenant_id
from ..kit.contract import Method
from ..kit.errors import InvalidArgument, NotFound
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import parse_id
from ..kit.limits import Limits, LimitState
from ..kit.masks import changes
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.timestamps import now, timestamp
from ..llm.base import Parameters
from ..policies.plan import Plan, Plans, Target
from ..usage.ledger import reservation, window_end, window_start
from ..usage.store import CURRENCY
from ..workspaces.store import find_workspace
from . import service, store
from .models import Budget, BudgetCount

_SEND = "/aiworkspace.v1.ChatService/SendMessage"
_SUBJECT_FIELDS = {"workspace": "workspace_id", "member": "user_id", "api_key": "api_key_id"}


class BudgetServicer(BudgetServiceServicer):
    def __init__(
        self,
        db: Database,
        plans: Plans,
        limits: Limits,
        methods: Mapping[str, Method],
        pages: Pages,
        idempotency: IdempotencyStore,
        allowance_nanos: int | None,
    ) -> None:
        """`allowance_nanos`: see `Ledger`."""
        self._db = db
        self._plans = plans
        self._limits = limits
        self._methods = methods
        self._pages = pages
        self._idempotency = idempotency
        self._allowance_nanos = allowance_nanos

    async def CreateBudget(self, request: pb.CreateBudgetRequest, context: Any) -> pb.CreateBudgetResponse:
        terms, named = _read_terms(request), _read_subjects(request)
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateBudgetResponse):
                return reply
            budget = await service.create_budget(tx, tenant_id(), terms, named)
            found = await service.get_budget(tx, budget.id)
            reply = pb.CreateBudgetResponse(budget=self._to_proto(*found))
            return await self._idempotency.save(tx, request, reply)

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Any) -> pb.GetBudgetResponse:
        budget_id = parse_id(request.budget_id, "budget_id")
        async with self._db.read(tenant_id()) as tx:
            found = await service.get_budget(tx, budget_id, self._allowance_nanos)
        return pb.GetBudgetResponse(budget=self._to_proto(*found))

    async def ListBudgets(self, request: pb.ListBudgetsRequest, context: Any) -> pb.ListBudgetsResponse:
        after, limit = self._pages.after_id(request), self._pages.limit(request)
        async with self._db.read(tenant_id()) as tx:
            rows = await store.list_budgets(tx, after, limit)
            found = None if after else await service.find_allowance(tx, tenant_id(), self._allowance_nanos)
        rows, more = self._pages.cut(request, rows, lambda row: [row[0].id])
        return pb.ListBudgetsResponse(
            budgets=[self._to_proto(*row) for row in rows],
            next_page_token=more,
            allowance=self._to_proto(*found) if found else None,
        )

    async def UpdateBudget(self, request: pb.UpdateBudgetRequest, context: Any) -> pb.UpdateBudgetResponse:
        given = request.budget
        values = changes(given, request.update_mask, {"limit", "hard", "alert_percents"})
        if "limit" in values:
            values["limit_nanos"] = _read_limit(values.pop("limit"), "budget.limit")
        if "alert_percents" in values:
            values["alert_percents"] = sorted(values["alert_percents"])
        budget_id = parse_id(given.budget_id, "budget.budget_id")
        async with self._db.write(tenant_id()) as tx:
            await service.update_budget(tx, tenant_id(), budget_id, given.etag, values)
            found = await service.get_budget(tx, budget_id)
        return pb.UpdateBudgetResponse(budget=self._to_proto(*found))

    async def DeleteBudget(self, request: pb.DeleteBudgetRequest, context: Any) -> pb.DeleteBudgetResponse:
        budget_id = parse_id(request.budget_id, "budget_id")
        async with self._db.write(tenant_id()) as tx:
            await service.delete_budget(tx, tenant_id(), budget_id)
        return pb.DeleteBudgetResponse()

    async def ExplainLimit(self, request: pb.ExplainLimitRequest, context: Any) -> pb.ExplainLimitResponse:
        workspace_id, key = parse_id(request.workspace_id, "workspace_id"), current_principal().key
        async with self._db.read(tenant_id()) as tx:
            workspace = await find_workspace(tx, workspace_id)
        if workspace is None:
            raise NotFound("workspace_id")
        model = request.model or workspace.default_model
        plan = await self._plans.make(
            tenant_id(),
            workspace_id,
            model,
            Parameters(),
            request.max_output_tokens,
            "model",
            chosen=bool(request.model),
        )
        target, model_rates = await _choose(plan, request.input_tokens + plan.max_output_tokens)
        amount = reservation(target.model, request.input_tokens, plan.max_output_tokens, now())
        async with self._db.read(tenant_id()) as tx:
            met = await store.list_meeting(
                tx,
                workspace_id,
                caller_id(),
                key.api_key_id if key else None,
                self._allowance_nanos,
                own_key=target.own_key,
            )
        budgets = [_met_to_proto(row, service.fits(row, amount)) for row in met]
        rates = [*await self._limits.look(self._methods[_SEND], current.get()), *model_rates]
        refused = any(budget.hard and not budget.fits for budget in budgets) or not all(rate.fits for rate in rates)
        return pb.ExplainLimitResponse(
            allowed=not refused,
            model=target.model,
            reservation=_money(amount.nanos),
            budgets=budgets,
            rate_limits=map(_rate_to_proto, rates),
        )

    def _to_proto(self, budget: Budget, count: BudgetCount | None) -> pb.Budget:
        return _budget_to_proto(budget, count, service.limit_of(budget, self._allowance_nanos))


async def _choose(plan: Plan, tokens: int) -> tuple[Target, list[LimitState]]:
    """Return the model that would answer a message, with the policies' limits for it.

    This is the first target of the plan within its limits, as in SendMessage, or the first target if none is.
    """
    met = [(target, await plan.limits.look(target.model, tokens)) for target in plan.targets]
    return next((each for each in met if all(rate.fits for rate in each[1])), met[0])


def _read_terms(request: pb.CreateBudgetRequest) -> service.Terms:
    return service.Terms(
        scope=pb.BudgetScope.Name(request.scope).removeprefix("BUDGET_SCOPE_").lower(),
        period=pb.BudgetWindow.Name(request.window).removeprefix("BUDGET_WINDOW_").lower(),
        limit_nanos=_read_limit(request.limit, "limit"),
        hard=request.hard,
        alert_percents=sorted(request.alert_percents),
    )


def _read_subjects(request: pb.CreateBudgetRequest) -> dict[str, UUID]:
    given = {field: getattr(request, field) for field in _SUBJECT_FIELDS.values()}
    return {field: parse_id(value, field) for field, value in given.items() if value}


def _read_limit(limit: common_pb2.Money, field: str) -> int:
    if limit.currency_code != CURRENCY:
        raise InvalidArgument({f"{field}.currency_code": f"must be {CURRENCY}"})
    if limit.nanos < 0:
        raise InvalidArgument({f"{field}.nanos": "must not be negative"})
    return limit.nanos


def _budget_to_proto(budget: Budget, count: BudgetCount | None, limit_nanos: int) -> pb.Budget:
    subject_id = budget.named_id or budget.subject_id
    subject = {_SUBJECT_FIELDS[budget.scope]: str(subject_id)} if subject_id else {}
    one = budget.subject_id is not None or budget.scope in ("org", "allowance")
    return pb.Budget(
        org_id=str(budget.org_id),
        budget_id=str(budget.id),
        scope=_scope(budget.scope),
        window=_window(budget.period),
        limit=_money(limit_nanos),
        hard=budget.hard,
        alert_percents=budget.alert_percents,
        status=_present_status(budget, count, limit_nanos) if one else None,
        create_time=timestamp(budget.create_time),
        update_time=timestamp(budget.update_time),
        etag=str(budget.version),
        **subject,
    )


def _present_status(budget: Budget, count: BudgetCount | None, limit_nanos: int) -> pb.BudgetStatus:
    start = count.start_time if count else window_start(budget.period, now())
    settled, reserved = (count.settled_nanos, count.reserved_nanos) if count else (0, 0)
    return _status_to_proto(budget.period, start, limit_nanos, settled, reserved)


def _status_to_proto(period: str, start: Any, limit: int, settled: int, reserved: int) -> pb.BudgetStatus:
    return pb.BudgetStatus(
        start_time=timestamp(start),
        end_time=timestamp(window_end(period, start)),
        settled=_money(settled),
        reserved=_money(reserved),
        remaining=_money(max(0, limit - settled - reserved)),
    )


def _met_to_proto(row: Row[*tuple[Any, ...]], fits: bool) -> pb.BudgetLimit:
    return pb.BudgetLimit(
        budget_id=str(row.id),
        scope=_scope(row.scope),
        window=_window(row.period),
        limit=_money(row.limit_nanos),
        hard=row.hard,
        status=_status_to_proto(row.period, row.start_time, row.limit_nanos, row.settled_nanos, row.reserved_nanos),
        fits=fits,
    )


def _rate_to_proto(rate: LimitState) -> pb.RateLimit:
    return pb.RateLimit(
        name=rate.name,
        limit=rate.limit,
        remaining=rate.remaining,
        reset_time=timestamp(rate.reset_time),
        fits=rate.fits,
    )


def _scope(name: str) -> pb.BudgetScope.ValueType:
    return pb.BudgetScope.Value(f"BUDGET_SCOPE_{name.upper()}")


def _window(period: str) -> pb.BudgetWindow.ValueType:
    return pb.BudgetWindow.Value(f"BUDGET_WINDOW_{period.upper()}")


def _money(nanos: int) -> common_pb2.Money:
    return common_pb2.Money(currency_code=CURRENCY, nanos=nanos)
