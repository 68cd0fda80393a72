"""Writes docs/access.md: which role may call which method, as the contract declares it."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aiworkspace.v1 import options_pb2 as options
from tools import contract
from tools.contract import Contract, Method

PAGE = contract.ROOT / "docs" / "access.md"
_INTRODUCTION = """\
# Who may call what

This page is written by `make docs` from the options in `protos/aiworkspace/v1`; do not edit it. The server reads the
same options, and a test compares every line of the tables below with the running server.

- **viewer** to **billing**: the roles in an organization. For methods on a workspace and its conversations, the table
  is about workspaces that are open to their organization. In workspaces for members only, **admin** and **owner** may
  do the same, and the other roles nothing.
- **ws viewer**, **ws editor**, **ws manager**: the roles in a workspace, of a person or through a team. They add to the
  role in the organization, and matter only for methods on a workspace.
- A custom role allows what its permissions allow. It can have any of those in the first table.
- **API keys**: *scoped* means that the permission must be among the key's scopes and those of its service account,
  *yes* that every key may call, *no* that a session is needed.
- Callers who may not see the organization or workspace get NOT_FOUND, and so does everybody except its owner for a
  conversation. All others who may not call get PERMISSION_DENIED.
- Methods that need *an operator* are for people whom the server's command line has appointed, whatever their roles.
- While an operator has suspended an organization, GetOrg alone may be called in it; everything else in it ends with
  FAILED_PRECONDITION.
- *self* instead of *-*: without the permission, members may call the method only about themselves.
"""
_NEEDS = {
    options.ACCESS_MODE_PUBLIC: "no credentials",
    options.ACCESS_MODE_AUTHENTICATED: "any credentials",
    options.ACCESS_MODE_SESSION: "a signed-in person",
    options.ACCESS_MODE_OPERATOR: "an operator",
}
_API_KEYS = {
    options.ACCESS_MODE_PUBLIC: "",
    options.ACCESS_MODE_AUTHENTICATED: "yes",
    options.ACCESS_MODE_PERMISSION: "scoped",
    options.ACCESS_MODE_SESSION: "no",
    options.ACCESS_MODE_OPERATOR: "no",
}
_ADMINISTER = "workspace.administer"

Roles = Mapping[str, frozenset[str]]


def main() -> None:
    types = contract.load()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(page(types)).rstrip() + "\n", encoding="utf-8")


def page(types: Contract) -> Iterator[str]:
    """Yield the lines of the page: permissions by role, then methods by role for each service."""
    roles, workspace_roles = _grants(types, "Role"), _grants(types, "WorkspaceRole")
    columns = [*roles, *(f"ws {role}" for role in workspace_roles)]
    yield _INTRODUCTION
    yield "## Permissions\n"
    yield from _head("permission", *columns)
    for value in types.enums["aiworkspace.v1.Permission"].values:
        if value.permission_name:
            allowed = [value.permission_name in held for held in (*roles.values(), *workspace_roles.values())]
            yield _row(f"`{value.permission_name}`", *map(_yes, allowed))
    for service in types.services:
        yield f"\n## {service.name}\n"
        yield from _head("method", "needs", *columns, "API keys", "audited")
        for method in service.methods:
            yield _method(method, roles, workspace_roles)


def _grants(types: Contract, enum: str) -> Roles:
    """Return the permissions of each role that has some, by its name in lower case."""
    values = types.enums[f"aiworkspace.v1.{enum}"].values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): frozenset(value.grants) for value in values if value.grants}


def _method(method: Method, roles: Roles, workspace_roles: Roles) -> str:
    access = method.access
    cells = [
        *(_cell(access, held) for held in roles.values()),
        *(_cell(access, held) if _is_about_workspace(access) else "" for held in workspace_roles.values()),
    ]
    needs = f"`{access.permission}`" if access.permission else _NEEDS[access.mode]
    return _row(method.name, needs, *cells, _API_KEYS[access.mode], _yes(method.audited))


def _cell(access: options.Access, held: frozenset[str]) -> str:
    """Return the cell for a role with these permissions."""
    if access.mode == options.ACCESS_MODE_OPERATOR:
        return "-"
    if access.mode != options.ACCESS_MODE_PERMISSION or access.permission in held:
        return "yes"
    if not _is_about_workspace(access):
        return "self" if access.self_field else "-"
    if _ADMINISTER in held:
        return "yes"
    return "self" if access.self_field and "workspace.read" in held else "-"


def _is_about_workspace(access: options.Access) -> bool:
    return access.mode == options.ACCESS_MODE_PERMISSION and access.scope.rpartition(".")[2] != "org_id"


def _yes(value: bool) -> str:
    return "yes" if value else "-"


def _head(*columns: str) -> Iterator[str]:
    yield _row(*columns)
    yield _row(*("---" for _ in columns))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
