"""aiws admin: what operators do with organizations, servers and jobs."""

import json

import grpc
import pytest

from aiworkspace.v1 import admin_pb2 as pb
from aiworkspace.v1 import audit_pb2, org_pb2
from tests.client.conftest import Aiws
from tests.client.scripted import ScriptedServer, answer, answers, failure

ORG = pb.AdminOrg(
    org_id="org-9", name="Acme", state=org_pb2.ORG_STATE_SUSPENDED, state_reason="Unpaid.", member_count=3
)
SERVER = pb.Server(server_id="server-1", name="web-1/7", version="0.1.0", address="h:1", run_count=4, draining=True)
JOB = pb.Job(job_id="job-1", task="erasure.org", state=pb.JOB_STATE_FAILED, org_id="org-9", attempt_count=35)

pytestmark = pytest.mark.usefixtures("signed_in")


async def test_organizations_are_listed_suspended_and_reinstated(server: ScriptedServer, aiws: Aiws) -> None:
    active = pb.AdminOrg(org_id="org-9", name="Acme", state=org_pb2.ORG_STATE_ACTIVE)
    server.script("AdminService.ListAllOrgs", answer(pb.ListAllOrgsResponse(orgs=[ORG])))
    server.script("AdminService.SuspendOrg", answer(pb.SuspendOrgResponse(org=ORG)))
    server.script("AdminService.ReinstateOrg", answer(pb.ReinstateOrgResponse(org=active)))
    table = (await aiws("admin", "orgs", "--suspended")).stdout.splitlines()
    assert table[1].split() == ["org-9", "Acme", "suspended", "3", "Unpaid."]
    assert server.calls[-1].request == pb.ListAllOrgsRequest(state=org_pb2.ORG_STATE_SUSPENDED, page_size=50)
    assert json.loads((await aiws("admin", "orgs", "--json")).stdout)[0]["state_reason"] == "Unpaid."
    ran = await aiws("admin", "suspend", "org-9", "--reason", "Unpaid.")
    assert (ran.returncode, ran.stderr) == (0, "Acme is suspended.\n")
    assert server.calls[-1].request == pb.SuspendOrgRequest(org_id="org-9", reason="Unpaid.")
    ran = await aiws("admin", "reinstate", "org-9", stdin="Paid.\n")
    assert (ran.returncode, "Acme is active." in ran.stderr) == (0, True), ran.stderr
    assert server.calls[-1].request == pb.ReinstateOrgRequest(org_id="org-9", reason="Paid.")


async def test_servers_are_listed(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("AdminService.ListServers", answer(pb.ListServersResponse(servers=[SERVER])))
    table = (await aiws("admin", "servers")).stdout.splitlines()
    assert table[1].split() == ["server-1", "web-1/7", "0.1.0", "h:1", "4", "draining"]


async def test_jobs_are_listed_retried_and_cancelled(server: ScriptedServer, aiws: Aiws) -> None:
    waiting = pb.Job(job_id="job-1", task="erasure.org", state=pb.JOB_STATE_WAITING)
    stopping = pb.Job(job_id="job-1", task="erasure.org", state=pb.JOB_STATE_STOPPING)
    server.script("AdminService.ListJobs", answer(pb.ListJobsResponse(jobs=[JOB])))
    server.script("AdminService.RetryJob", answer(pb.RetryJobResponse(job=waiting)))
    server.script("AdminService.CancelJob", answer(pb.CancelJobResponse(job=stopping)))
    table = (await aiws("admin", "jobs", "--task", "erasure.org", "--state", "failed", "-n", "5")).stdout.splitlines()
    assert table[1].split() == ["job-1", "erasure.org", "failed", "35", "org-9"]
    assert server.calls[-1].request == pb.ListJobsRequest(task="erasure.org", state=pb.JOB_STATE_FAILED, page_size=5)
    assert (await aiws("admin", "retry-job", "job-1")).stderr == "erasure.org is waiting.\n"
    assert (await aiws("admin", "cancel-job", "job-1")).stderr == "erasure.org is stopping.\n"
    ran = await aiws("admin", "jobs", "--state", "sleeping")
    assert (ran.returncode, "is not a state" in ran.stderr) == (2, True)


async def test_the_operators_log_is_listed_and_verified(server: ScriptedServer, aiws: Aiws) -> None:
    event = audit_pb2.AuditEvent(sequence=7, user_id="user-1", method="AdminService/SuspendOrg", code="OK")
    verified = audit_pb2.VerifyOperatorChainResponse(valid=True, sequence=7, hash="ab")
    broken = audit_pb2.VerifyOperatorChainResponse(broken_sequence=3, problem="The entry is missing.", sequence=7)
    server.script("AuditService.ListOperatorEvents", answer(audit_pb2.ListOperatorEventsResponse(events=[event])))
    server.script("AuditService.VerifyOperatorChain", answers(verified, broken))
    table = (await aiws("admin", "log", "--about", "org-9")).stdout.splitlines()
    assert table[1].split() == ["7", "user-1", "AdminService/SuspendOrg", "OK"]
    assert server.calls[-1].request.resource_id == "org-9"
    assert (await aiws("admin", "verify")).stdout.split() == ["NUMBER", "HASH", "7", "ab"]
    ran = await aiws("admin", "verify")
    assert (ran.returncode, "Entry 3 is invalid." in ran.stderr) == (1, True)


async def test_others_are_told_whom_it_is_for(server: ScriptedServer, aiws: Aiws) -> None:
    text = "This method is for operators of the server."
    refused = failure(grpc.StatusCode.PERMISSION_DENIED, "OPERATOR_REQUIRED", text)
    server.script("AdminService.ListServers", answers(refused))
    ran = await aiws("admin", "servers")
    assert (ran.returncode, text in ran.stderr) == (1, True)
