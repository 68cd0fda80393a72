"""The gRPC surface: the steps around every call, in order and with reasons, and all services."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from aiworkspace.v1 import (
    access_pb2,
    account_pb2,
    admin_pb2,
    audit_pb2,
    auth_pb2,
    budget_pb2,
    chat_pb2,
    data_pb2,
    document_pb2,
    event_pb2,
    model_pb2,
    org_pb2,
    service_account_pb2,
    team_pb2,
    usage_pb2,
    webhook_pb2,
    workspace_pb2,
)
from aiworkspace.v1.access_pb2_grpc import add_AccessServiceServicer_to_server
from aiworkspace.v1.account_pb2_grpc import add_AccountServiceServicer_to_server
from aiworkspace.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from aiworkspace.v1.audit_pb2_grpc import add_AuditServiceServicer_to_server
from aiworkspace.v1.auth_pb2_grpc import add_AuthServiceServicer_to_server
from aiworkspace.v1.budget_pb2_grpc import add_BudgetServiceServicer_to_server
from aiworkspace.v1.chat_pb2_grpc import add_ChatServiceServicer_to_server
from aiworkspace.v1.data_pb2_grpc import add_DataServiceServicer_to_server
from aiworkspace.v1.document_pb2_grpc import add_DocumentServiceServicer_to_server
from aiworkspace.v1.event_pb2_grpc import add_EventServiceServicer_to_server
from aiworkspace.v1.model_pb2_grpc import add_ModelServiceServicer_to_server
from aiworkspace.v1.org_pb2_grpc import add_OrgServiceServicer_to_server
from aiworkspace.v1.service_account_pb2_grpc import add_ServiceAccountServiceServicer_to_server
from aiworkspace.v1.team_pb2_grpc import add_TeamServiceServicer_to_server
from aiworkspace.v1.usage_pb2_grpc import add_UsageServiceServicer_to_server
from aiworkspace.v1.webhook_pb2_grpc import add_WebhookServiceServicer_to_server
from aiworkspace.v1.workspace_pb2_grpc import add_WorkspaceServiceServicer_to_server

from .access.authorize import Access
from .access.servicer import AccessServicer
from .accounts.servicer import AccountServicer
from .admin.servicer import AdminServicer
from .audit.recorder import Recorder
from .audit.servicer import AuditServicer
from .auth.authority import check_permissions
from .auth.principal import Authenticator
from .auth.servicer import AuthServicer
from .budgets.servicer import BudgetServicer
from .chat.servicer import ChatServicer
from .data_life.servicer import DataServicer
from .documents.servicer import DocumentServicer
from .events.servicer import EventServicer
from .kit import interceptors, requests, typed
from .kit.addresses import TrustedProxies
from .kit.at_once import CallsAtOnce
from .kit.contract import MOST_REQUEST_BYTES, Method, read_methods
from .kit.health import Health
from .kit.interceptors import Chain, Step
from .kit.limits import Limits
from .kit.metrics import OTHER, Metrics
from .kit.reflection import Reflection
from .kit.requests import Reading
from .kit.serving import make_server
from .kit.tracing import Tracing
from .orgs.servicer import OrgServicer
from .policies.servicer import ModelServicer
from .service_accounts.servicer import ServiceAccountServicer
from .teams.servicer import TeamServicer
from .usage.servicer import UsageServicer
from .webhooks.servicer import WebhookServicer
from .workspaces.servicer import WorkspaceServicer

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (auth_pb2, "AuthService"),
        (account_pb2, "AccountService"),
        (org_pb2, "OrgService"),
        (team_pb2, "TeamService"),
        (access_pb2, "AccessService"),
        (service_account_pb2, "ServiceAccountService"),
        (workspace_pb2, "WorkspaceService"),
        (model_pb2, "ModelService"),
        (chat_pb2, "ChatService"),
        (document_pb2, "DocumentService"),
        (usage_pb2, "UsageService"),
        (budget_pb2, "BudgetService"),
        (audit_pb2, "AuditService"),
        (admin_pb2, "AdminService"),
        (data_pb2, "DataService"),
        (event_pb2, "EventService"),
        (webhook_pb2, "WebhookService"),
    )
)
# What services need besides PostgreSQL, by the names of the probes in app.py.
_NEEDS = {"ChatService": ("mongo", "lease"), "DocumentService": ("mongo",)}
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
OPTIONS = (
    ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 1000),  # per connection: as many as a caller may have of both stream classes
    # How much gRPC buffers of an unread request. By default it starts with 4 MiB and grows.
    ("grpc.http2.lookahead_bytes", 65_535),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 10 * 60_000),
)


def steps(
    metrics: Metrics,
    tracing: Tracing,
    proxies: TrustedProxies,
    authenticator: Authenticator,
    limits: Limits,
    at_once: CallsAtOnce,
    reading: Reading,
    recorder: Recorder,
    access: Access,
) -> list[Step]:
    """Return the steps around every method of the contract, outermost first."""
    return [
        interceptors.request_id,  # first, so that all logs and errors can name the call
        interceptors.map_errors,  # outside of everything that can raise
        interceptors.measure_calls(metrics),  # the outcome and time of all steps below
        proxies.step,  # sets the address that limits and the audit log use
        interceptors.log_calls,  # logs the outcome of all steps below
        interceptors.authenticate(authenticator.authenticate),  # before any work for the caller
        tracing.step,  # after authentication, since only known callers decide what is recorded
        limits.step,  # counts per caller, so after authentication; before expensive steps
        at_once.step,  # the same; from here on a call may take long
        reading.step,  # after the limits, so that requests of refused callers are not read
        recorder.outcomes,  # after authentication and limits, so that it records refusals of known callers
        interceptors.authenticate_again(authenticator.refresh),  # reads the database, so within the limits
        # Before validation, so that outsiders learn nothing from it.
        interceptors.authorize(access.authorize, access.check_operator, access.recheck, access.allowed_by),
        typed.normalise,  # normalizes typed text before it is validated and compared
        requests.validate,  # handlers get only valid requests
        recorder.changes,  # last: authorization commits the last use of a key, which is not the call's change
    ]


def read_surface(access: Access, services: Iterable[ServiceDescriptor] = SERVICES) -> Mapping[str, Method]:
    """Return all methods by path. Raises ContractError if a method's access is not fully declared."""
    methods = read_methods(services, access.scopes)
    check_permissions(methods.values())
    return methods


def build_server(
    methods: Mapping[str, Method],
    metrics: Metrics,
    tracing: Tracing,
    proxies: TrustedProxies,
    authenticator: Authenticator,
    limits: Limits,
    recorder: Recorder,
    access: Access,
    *,
    sharing_port: bool,
) -> grpc.aio.Server:
    """Return a server without services. Without `sharing_port`, a second server on the port is refused."""
    at_once, reading = CallsAtOnce(), Reading()
    open_steps = [
        interceptors.request_id,
        interceptors.map_errors,
        interceptors.measure_calls(metrics),
        proxies.step,
        at_once.step,
        reading.step,
        limits.step,  # after reading, because it counts each message of a client stream
        requests.validate,
    ]
    chain = Chain(
        methods,
        steps(metrics, tracing, proxies, authenticator, limits, at_once, reading, recorder, access),
        open_services=(_HEALTH, reflection.SERVICE_NAME),
        open_steps=open_steps,
    )
    unknown = metrics.rpc_seconds.labels(OTHER, grpc.StatusCode.UNIMPLEMENTED.name)
    options = (*OPTIONS, ("grpc.so_reuseport", int(sharing_port)))
    return make_server(chain.wrap, options, lambda: unknown.observe(0))


@dataclass(frozen=True, slots=True)
class Services:
    """The servicers of all services."""

    auth: AuthServicer
    accounts: AccountServicer
    orgs: OrgServicer
    teams: TeamServicer
    access: AccessServicer
    service_accounts: ServiceAccountServicer
    workspaces: WorkspaceServicer
    models: ModelServicer
    chat: ChatServicer
    documents: DocumentServicer
    usage: UsageServicer
    budgets: BudgetServicer
    audit: AuditServicer
    admin: AdminServicer
    data: DataServicer
    events: EventServicer
    webhooks: WebhookServicer


def add_services(server: grpc.aio.Server, services: Services) -> Health:
    """Add every service, health and reflection. Return the health service, which the caller tells what is there."""
    add_AuthServiceServicer_to_server(services.auth, server)
    add_AccountServiceServicer_to_server(services.accounts, server)
    add_OrgServiceServicer_to_server(services.orgs, server)
    add_TeamServiceServicer_to_server(services.teams, server)
    add_AccessServiceServicer_to_server(services.access, server)
    add_ServiceAccountServiceServicer_to_server(services.service_accounts, server)
    add_WorkspaceServiceServicer_to_server(services.workspaces, server)
    add_ModelServiceServicer_to_server(services.models, server)
    add_ChatServiceServicer_to_server(services.chat, server)
    add_DocumentServiceServicer_to_server(services.documents, server)
    add_UsageServiceServicer_to_server(services.usage, server)
    add_BudgetServiceServicer_to_server(services.budgets, server)
    add_AuditServiceServicer_to_server(services.audit, server)
    add_EventServiceServicer_to_server(services.events, server)
    add_WebhookServiceServicer_to_server(services.webhooks, server)
    add_AdminServiceServicer_to_server(services.admin, server)
    add_DataServiceServicer_to_server(services.data, server)
    health = Health({service.full_name: ("postgres", *_NEEDS.get(service.name, ())) for service in SERVICES})
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    names = [*(service.full_name for service in SERVICES), _HEALTH, reflection.SERVICE_NAME]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(Reflection(names), server)  # type: ignore[no-untyped-call]
    return health
