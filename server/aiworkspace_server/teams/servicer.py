"""TeamService: proto in and out, one transaction per call."""

from typing import Any

from aiworkspace.v1 import team_pb2 as pb
from aiworkspace.v1.team_pb2_grpc import TeamServiceServicer

from ..auth.authority import current_principal
from ..kit.context import caller_id, tenant_id
from ..kit.errors import NotFound
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import parse_id
from ..kit.masks import changes
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.timestamps import timestamp
from ..orgs.models import Team, TeamMember
from ..orgs.servicer import RightsLost
from ..orgs.store import find_team
from ..workspaces.service import WorkspaceFinder
from . import service, store


class TeamServicer(TeamServiceServicer):
    def __init__(
        self,
        db: Database,
        finder: WorkspaceFinder,
        rights_lost: RightsLost,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._db = db
        self._finder = finder
        self._rights_lost = rights_lost
        self._pages = pages
        self._idempotency = idempotency

    async def CreateTeam(self, request: pb.CreateTeamRequest, context: Any) -> pb.CreateTeamResponse:
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateTeamResponse):
                return reply
            team = service.create_team(tx, tenant_id(), request.name)
            return await self._idempotency.save(tx, request, pb.CreateTeamResponse(team=_team_to_proto(team, 0)))

    async def ListTeams(self, request: pb.ListTeamsRequest, context: Any) -> pb.ListTeamsResponse:
        async with self._db.read(tenant_id()) as tx:
            rows = await store.list_teams(tx, self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda row: [row[0].id])
        return pb.ListTeamsResponse(teams=[_team_to_proto(*row) for row in rows], next_page_token=more)

    async def UpdateTeam(self, request: pb.UpdateTeamRequest, context: Any) -> pb.UpdateTeamResponse:
        values = changes(request.team, request.update_mask, {"name"})
        team_id = parse_id(request.team.team_id, "team.team_id")
        async with self._db.write(tenant_id()) as tx:
            changed = await service.update_team(tx, team_id, request.team.etag, values)
        return pb.UpdateTeamResponse(team=_team_to_proto(*changed))

    async def DeleteTeam(self, request: pb.DeleteTeamRequest, context: Any) -> pb.DeleteTeamResponse:
        team_id = parse_id(request.team_id, "team_id")
        async with self._db.write(tenant_id()) as tx:
            await service.delete_team(tx, tenant_id(), team_id, current_principal())
        await self._withdrawn()
        return pb.DeleteTeamResponse()

    async def AddTeamMember(self, request: pb.AddTeamMemberRequest, context: Any) -> pb.AddTeamMemberResponse:
        team_id, user_id = parse_id(request.team_id, "team_id"), parse_id(request.user_id, "user_id")
        async with self._db.write(tenant_id()) as tx:
            added = await service.add_member(tx, tenant_id(), team_id, user_id, current_principal())
        return pb.AddTeamMemberResponse(member=_member_to_proto(*added))

    async def RemoveTeamMember(self, request: pb.RemoveTeamMemberRequest, context: Any) -> pb.RemoveTeamMemberResponse:
        team_id, user_id = parse_id(request.team_id, "team_id"), parse_id(request.user_id, "user_id")
        async with self._db.write(tenant_id()) as tx:
            await service.remove_member(tx, tenant_id(), team_id, user_id, current_principal())
        await self._withdrawn()
        return pb.RemoveTeamMemberResponse()

    async def ListTeamMembers(self, request: pb.ListTeamMembersRequest, context: Any) -> pb.ListTeamMembersResponse:
        team_id = parse_id(request.team_id, "team_id")
        async with self._db.read(tenant_id()) as tx:
            if await find_team(tx, team_id) is None:
                raise NotFound("team_id")
            rows = await store.list_members(tx, team_id, self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda row: [row[0].user_id])
        return pb.ListTeamMembersResponse(members=[_member_to_proto(*row) for row in rows], next_page_token=more)

    async def _withdrawn(self) -> None:
        """Drop caches and cancel runs after somebody may have lost a team's rights, in any workspace."""
        self._finder.forget_all()
        await self._rights_lost(tenant_id())


def _team_to_proto(team: Team, member_count: int) -> pb.Team:
    return pb.Team(
        org_id=str(team.org_id),
        team_id=str(team.id),
        name=team.name,
        member_count=member_count,
        create_time=timestamp(team.create_time),
        update_time=timestamp(team.update_time),
        etag=str(team.version),
    )


def _member_to_proto(member: TeamMember, name: str) -> pb.TeamMember:
    return pb.TeamMember(
        team_id=str(member.team_id),
        user_id=str(member.user_id),
        display_name=name,
        create_time=timestamp(member.create_time),
    )
