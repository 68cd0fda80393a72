"""The generators read the contract right; that their output is committed is checked by make lint."""

import re

import pytest

from tools import contract, gen_docs
from tools.contract import Contract
from tools.namespaces import Namespaces, docstring
from tools.parameters import is_required, parameters, positional


@pytest.fixture(scope="module")
def types() -> Contract:
    return contract.load()


def test_what_the_rules_refuse_to_be_empty_is_required(types: Contract) -> None:
    required = {
        f"{method.name}.{field.name}"
        for service in types.services
        for method in service.methods
        for field in method.request.fields
        if is_required(field)
    }
    assert {"Register.email", "Login.password", "CreateInvitation.role", "SendMessage.content"} <= required
    assert {"GetOrg.org_id", "UpdateOrg.org", "AcceptInvitation.token"} <= required
    optional = {"Register.device_name", "CreateOrg.request_id", "GetUsage.user_id", "StreamRun.after_sequence"}
    assert optional.isdisjoint(required)


def test_the_one_id_of_a_method_needs_no_keyword(types: Contract) -> None:
    unnamed = {
        method.name: [parameter.name for parameter in positional(parameters(method, types))]
        for service in types.services
        for method in service.methods
    }
    assert unnamed["GetWorkspace"] == ["workspace_id"]
    assert unnamed["CreateConversation"] == ["workspace_id"]
    assert unnamed["RemoveMember"] == unnamed["CreateOrg"] == unnamed["Refresh"] == []


def test_what_is_for_browsers_is_no_parameter(types: Contract) -> None:
    (login,) = [method for service in types.services for method in service.methods if method.name == "Login"]
    assert login.request.field("use_cookies")
    assert [each.name for each in parameters(login, types)] == ["email", "password", "device_name", "device_token"]


def test_namespaces_are_named_after_what_they_list(types: Contract) -> None:
    names = {Namespaces(service, types).name for service in types.services}
    assert {"account", "auth", "chat", "orgs", "service_accounts", "usage", "workspaces"} <= names


def test_names_of_several_words(types: Contract) -> None:
    service = next(service for service in types.services if service.name == "ServiceAccountService")
    namespaces = Namespaces(service, types)
    limits = ["set_limits", "set_api_key_limits", "get_call_ceilings"]
    keys = ["create_api_key", "list_api_keys", *limits, "rotate_api_key", "revoke_api_key"]
    for source, name in (
        (namespaces.async_source(), "AsyncServiceAccounts"),
        (namespaces.sync_source(), "ServiceAccounts"),
    ):
        assert re.findall(r"^class (\w+):", source, re.MULTILINE) == [name]
        assert re.findall(r"^    (?:async )?def ([a-z]\w+)\(", source, re.MULTILINE) == [
            "create",
            "list",
            "delete",
            *keys,
        ]


def test_docstrings_fit_and_escape() -> None:
    text = docstring("A \\d pattern. " + "word " * 60, 8, [("name", "What it is. " * 20)])
    assert max(map(len, text.splitlines())) <= 120
    assert "\\\\d" in text


def test_the_reference_has_everything(types: Contract) -> None:
    page = "\n".join(gen_docs.page(types))
    methods = {method.name for service in types.services for method in service.methods}
    for service in types.services:
        for method in service.methods:
            assert f"### {service.name}.{method.name}\n" in page
    for named in types.named.values():
        of_method = any(named.name in (f"{method}Request", f"{method}Response") for method in methods)
        if named.file != "options" and not of_method:
            assert f"### {named.name}\n" in page
    assert "permission `usage.read` in the organization of `org_id`, not needed if `user_id` is the caller" in page
    assert "| `password` | string |" in page
    assert "required; 12 to 1,024 characters; never logged" in page
