"""aiws data: retention and legal holds."""

import json

import pytest

from aiworkspace.v1 import data_pb2 as pb
from tests.client.conftest import Aiws
from tests.client.scripted import ScriptedServer, answer

POLICY = pb.DataPolicy(org_id="org-1", retention=pb.Retention(conversation_days=30), held=True, hold_reason="Case 7.")

pytestmark = pytest.mark.usefixtures("signed_in")


async def test_retention_is_set_and_shown(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("DataService.SetRetention", answer(pb.SetRetentionResponse(policy=POLICY)))
    server.script("DataService.GetDataPolicy", answer(pb.GetDataPolicyResponse(policy=POLICY)))
    ran = await aiws("data", "retention", "--conversations", "30", "--attempts", "7", "-w", "workspace-2")
    assert ran.returncode == 0, ran.stderr
    days = pb.Retention(conversation_days=30, attempt_days=7)
    assert server.calls[-1].request == pb.SetRetentionRequest(
        org_id="org-1", workspace_id="workspace-2", retention=days
    )
    shown = (await aiws("data", "show")).stdout
    assert "30 days" in shown
    assert "Case 7." in shown
    assert server.calls[-1].request == pb.GetDataPolicyRequest(org_id="org-1")
    assert json.loads((await aiws("data", "show", "--json")).stdout)["held"] is True


async def test_a_hold_begins_and_ends(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("DataService.SetLegalHold", answer(pb.SetLegalHoldResponse(policy=POLICY)))
    assert (await aiws("data", "hold", "--reason", "Case 7.")).returncode == 0
    assert server.calls[-1].request == pb.SetLegalHoldRequest(org_id="org-1", held=True, reason="Case 7.")
    assert (await aiws("data", "release", "--org", "org-2")).returncode == 0
    assert server.calls[-1].request == pb.SetLegalHoldRequest(org_id="org-2")
