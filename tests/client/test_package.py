"""What the package imports, and that it covers the contract."""

import inspect
import subprocess
import sys

import pytest
from google.protobuf.descriptor import MethodDescriptor

from aiworkspace.v1 import (
    access_pb2,
    account_pb2,
    audit_pb2,
    auth_pb2,
    budget_pb2,
    chat_pb2,
    model_pb2,
    org_pb2,
    service_account_pb2,
    team_pb2,
    usage_pb2,
    workspace_pb2,
)
from aiworkspace_client import AsyncClient, Client

NAMESPACES = {
    "access": access_pb2.DESCRIPTOR.services_by_name["AccessService"],
    "account": account_pb2.DESCRIPTOR.services_by_name["AccountService"],
    "audit": audit_pb2.DESCRIPTOR.services_by_name["AuditService"],
    "auth": auth_pb2.DESCRIPTOR.services_by_name["AuthService"],
    "budgets": budget_pb2.DESCRIPTOR.services_by_name["BudgetService"],
    "chat": chat_pb2.DESCRIPTOR.services_by_name["ChatService"],
    "models": model_pb2.DESCRIPTOR.services_by_name["ModelService"],
    "orgs": org_pb2.DESCRIPTOR.services_by_name["OrgService"],
    "service_accounts": service_account_pb2.DESCRIPTOR.services_by_name["ServiceAccountService"],
    "teams": team_pb2.DESCRIPTOR.services_by_name["TeamService"],
    "usage": usage_pb2.DESCRIPTOR.services_by_name["UsageService"],
    "workspaces": workspace_pb2.DESCRIPTOR.services_by_name["WorkspaceService"],
}
METHODS = [(name, method) for name, service in NAMESPACES.items() for method in service.methods]

_LIST_MODULES = "import sys, aiworkspace_client; print('\\n'.join(sys.modules))"
_CLIENT_NEEDS = {"aiworkspace", "aiworkspace_client", "buf", "google", "grpc"}


def test_importing_the_client_imports_nothing_of_the_server() -> None:
    run = subprocess.run([sys.executable, "-c", _LIST_MODULES], capture_output=True, text=True, check=True)
    imported = {module.partition(".")[0] for module in run.stdout.split()}
    third_party = {name for name in imported if not name.startswith("_")} - sys.stdlib_module_names
    forbidden = {"aiworkspace_server", "sqlalchemy", "pymongo", "psycopg", "openai", "anthropic", "pydantic", "typer"}
    assert forbidden.isdisjoint(imported)
    assert third_party >= _CLIENT_NEEDS


@pytest.mark.parametrize("client", [AsyncClient(), Client()], ids=["async", "sync"])
@pytest.mark.parametrize(("namespace", "method"), METHODS, ids=[method.full_name for _, method in METHODS])
def test_every_field_of_every_method_is_a_parameter(
    client: AsyncClient | Client, namespace: str, method: MethodDescriptor
) -> None:
    methods = {name: each for name, each in inspect.getmembers(getattr(client, namespace)) if callable(each)}
    fields = set(method.input_type.fields_by_name) - {"use_cookies"}  # which is for browsers
    found = [
        name
        for name, each in methods.items()
        if not name.startswith("_") and set(inspect.signature(each).parameters) == fields | {"timeout"}
    ]
    assert found, f"{namespace} has no method with the parameters of {method.full_name}"


def test_both_clients_have_the_same_methods() -> None:
    for namespace in NAMESPACES:
        one, other = getattr(AsyncClient(), namespace), getattr(Client(), namespace)
        names = {name for name in dir(one) if not name.startswith("_")}
        assert names == {name for name in dir(other) if not name.startswith("_")}
        for name in names:
            first, second = inspect.signature(getattr(one, name)), inspect.signature(getattr(other, name))
            assert str(first.parameters) == str(second.parameters)
            assert inspect.getdoc(getattr(one, name))
