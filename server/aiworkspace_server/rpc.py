"""The surface: what runs around every call, in which order and why, and every service behind it."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from aiworkspace.v1 import auth_pb2, chat_pb2, org_pb2, usage_pb2, workspace_pb2
from aiworkspace.v1.auth_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server
from aiworkspace.v1.chat_pb2_grpc import ChatServiceServicer, add_ChatServiceServicer_to_server
from aiworkspace.v1.org_pb2_grpc import OrgServiceServicer, add_OrgServiceServicer_to_server
from aiworkspace.v1.usage_pb2_grpc import UsageServiceServicer, add_UsageServiceServicer_to_server
from aiworkspace.v1.workspace_pb2_grpc import WorkspaceServiceServicer, add_WorkspaceServiceServicer_to_server

from .auth.principal import Authenticator
from .kit import interceptors
from .kit.contract import read_methods
from .kit.interceptors import Interceptor, Step
from .kit.limits import Limits
from .orgs.access import Access
from .orgs.roles import check_permissions

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (auth_pb2, "AuthService"),
        (org_pb2, "OrgService"),
        (workspace_pb2, "WorkspaceService"),
        (chat_pb2, "ChatService"),
        (usage_pb2, "UsageService"),
    )
)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_MOST_REQUEST_BYTES = 4 << 20  # a message has at most 1 MiB; beyond this gRPC itself refuses with RESOURCE_EXHAUSTED
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two servers on one port would share it silently
    ("grpc.max_receive_message_length", _MOST_REQUEST_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 10 * 60_000),
)


def steps(authenticator: Authenticator, limits: Limits, access: Access) -> list[Step]:
    """What runs around every method of the contract, the outermost first."""
    return [
        interceptors.request_id,  # everything below can name the call
        interceptors.map_errors,  # nothing below reaches the client but as a status
        interceptors.log_calls,  # sees how everything below ended
        interceptors.authenticate(authenticator.authenticate),  # who calls, before anything is done for them
        limits.step,  # counts per person, so after authentication; before anything that costs
        interceptors.authorize(access.authorize),  # an outsider learns nothing from validation
        interceptors.validate,  # handlers see only requests that keep the rules
    ]


def build_server(authenticator: Authenticator, limits: Limits, access: Access) -> grpc.aio.Server:
    """A server without services. Raises ContractError when the contract leaves open who may call what."""
    methods = read_methods(SERVICES, access.scopes)
    check_permissions(methods.values())
    interceptor = Interceptor(
        methods,
        steps(authenticator, limits, access),
        open_services=(_HEALTH, reflection.SERVICE_NAME),
        open_steps=[interceptors.request_id, interceptors.map_errors],
    )
    return grpc.aio.server(interceptors=[interceptor], options=_OPTIONS)


async def add_services(
    server: grpc.aio.Server,
    auth: AuthServiceServicer,
    orgs: OrgServiceServicer,
    workspaces: WorkspaceServiceServicer,
    chat: ChatServiceServicer,
    usage: UsageServiceServicer,
) -> health.aio.HealthServicer:
    """Adds every service, health and reflection. Returns the health service, to be told when to say what."""
    add_AuthServiceServicer_to_server(auth, server)
    add_OrgServiceServicer_to_server(orgs, server)
    add_WorkspaceServiceServicer_to_server(workspaces, server)
    add_ChatServiceServicer_to_server(chat, server)
    add_UsageServiceServicer_to_server(usage, server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    names = [service.full_name for service in SERVICES]
    for name in names:
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((*names, _HEALTH, reflection.SERVICE_NAME), server)
    return health_servicer
