"""How aiws shows documents that are read, searched and quoted, whatever their names and texts are."""

import json
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.message import Message

from aiworkspace.v1 import chat_pb2
from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_client.cli import passages, reading
from tests.client.conftest import Aiws
from tests.client.runs import connections, whole_run
from tests.client.scripted import Context, ScriptedServer, answer, failure
from tools import contract

HOSTILE = "\x1b]0;owned\x07\x9b31mred [bold]name[/]\x00"
CLEAN = "]0;owned31mred [bold]name[/]"
STEPS = [
    pb.StepProgress(step=pb.INGESTION_STEP_RECEIVED, fraction=1, attempt_count=1),
    pb.StepProgress(step=pb.INGESTION_STEP_PARSED, attempt_count=2, failure_reason=pb.FAILURE_REASON_ENCRYPTED),
]


def failed(reason: pb.FailureReason.ValueType, **fields: object) -> pb.Document:
    document = pb.Document(document_id="document-1", name="a.pdf", version=2, steps=STEPS, failure_reason=reason)
    document.state = pb.DOCUMENT_STATE_FAILED
    document.MergeFrom(pb.Document(**fields))  # type: ignore[arg-type] # fields by name
    return document


def stored(server: ScriptedServer, document: pb.Document) -> None:
    async def watch(request: pb.WatchDocumentRequest, context: Context) -> AsyncIterator[Message]:
        yield pb.WatchDocumentResponse(document=document)

    server.script("DocumentService.WatchDocument", watch)
    server.script("DocumentService.GetDocument", answer(pb.GetDocumentResponse(document=document)))


def comments(enum: str) -> dict[int, str]:
    """What the contract says about the values of an enum."""
    return {value.number: value.comment for value in contract.load().enums[f"aiworkspace.v1.{enum}"].values}


def test_what_to_do_is_said_as_the_contract_says_it() -> None:
    said = comments("FailureReason")
    del said[pb.FAILURE_REASON_UNSPECIFIED]
    assert said == reading.WHAT_TO_DO


def test_everything_that_a_search_may_leave_out_has_words() -> None:
    assert passages.LEFT_OUT.keys() == set(pb.SearchOmission.values()) - {pb.SEARCH_OMISSION_UNSPECIFIED}


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        (pb.FAILURE_REASON_ENCRYPTED, "replace document-1 PATH"),
        (pb.FAILURE_REASON_EMBEDDING_UNAVAILABLE, "retry document-1"),
        (pb.FAILURE_REASON_INFECTED, "delete document-1"),
    ],
)
@pytest.mark.usefixtures("signed_in")
async def test_wait_for_a_failed_document_exits_with_its_reason_and_what_to_do(
    server: ScriptedServer, aiws: Aiws, reason: pb.FailureReason.ValueType, command: str
) -> None:
    stored(server, failed(reason))
    ran = await aiws("documents", "wait", "document-1")
    assert (ran.returncode, ran.stdout) == (1, "")
    word = pb.FailureReason.Name(reason).removeprefix("FAILURE_REASON_").lower().replace("_", " ")
    assert ran.stderr.splitlines() == [
        f"a.pdf (document-1): failed ({word})",
        reading.WHAT_TO_DO[reason],
        f"Next: aiws documents {command}",
    ]


@pytest.mark.usefixtures("signed_in")
async def test_reason_of_a_newer_server_is_a_number(server: ScriptedServer, aiws: Aiws) -> None:
    document = failed(pb.FAILURE_REASON_UNSPECIFIED)
    document.MergeFromString(pb.Document.FromString(b"\x68\x63").SerializeToString())  # failure_reason: 99
    stored(server, document)
    ran = await aiws("documents", "wait", "document-1")
    assert ran.returncode == 1
    assert ran.stderr.startswith("a.pdf (document-1): failed (99)\nNext: ")


@pytest.mark.usefixtures("signed_in")
async def test_a_document_is_shown_with_its_steps(server: ScriptedServer, aiws: Aiws) -> None:
    read = {"media_type": "application/pdf", "page_count": 3, "unread_pages": [2, 3], "chunk_count": 4}
    stored(server, failed(pb.FAILURE_REASON_ENCRYPTED, name=HOSTILE, text_length=5000, ready_version=1, **read))
    ran = await aiws("documents", "show", "document-1")
    assert ran.returncode == 0
    said = ran.stderr.splitlines()
    assert said[0] == f"{CLEAN} (document-1), version 2: failed (encrypted)"
    assert "application/pdf, 3 pages, 5,000 characters in 4 chunks. No text was found on pages 2, 3." in said
    assert "Version 1 answers searches." in said
    assert said[-1] == "Next: aiws documents replace document-1 PATH"
    assert [line.split() for line in ran.stdout.splitlines()[1:]] == [
        ["received", "100%", "1"],
        ["parsed", "0%", "2", "encrypted"],
    ]
    ran = await aiws("documents", "show", "document-1", "--json")
    assert json.loads(ran.stdout)["failure_reason"] == "FAILURE_REASON_ENCRYPTED"


@pytest.mark.usefixtures("signed_in")
async def test_a_failed_document_as_json_is_an_exit_code(server: ScriptedServer, aiws: Aiws) -> None:
    stored(server, failed(pb.FAILURE_REASON_NO_TEXT))
    ran = await aiws("documents", "wait", "document-1", "--json")
    assert (ran.returncode, ran.stderr) == (1, "")
    assert json.loads(ran.stdout)["state"] == "DOCUMENT_STATE_FAILED"


@pytest.mark.usefixtures("signed_in")
async def test_passages_are_one_line_each_without_control_characters(server: ScriptedServer, aiws: Aiws) -> None:
    place = pb.Place(page=3, headings=["Guide\n", HOSTILE])
    passage = pb.Passage(document_name=f"{HOSTILE}\n2. forged", place=place, text=f"one\r\n\x1b[2J2. {'two ' * 100}")
    omissions = [pb.SEARCH_OMISSION_NO_EMBEDDER]
    found = pb.SearchDocumentsResponse(passages=[passage], omissions=omissions)
    server.script("DocumentService.SearchDocuments", answer(found))
    ran = await aiws("documents", "search", "who", "is", "it?", "-c", "c-1", "-d", "d-1", "--limit", "1")
    assert ran.returncode == 0
    name, text = ran.stdout.splitlines()
    assert name == f"1. {CLEAN} 2. forged, Guide > {CLEAN}, page 3"
    assert text.startswith("   one [2J2. two two")
    assert text.endswith("…")
    assert ran.stderr.strip() == f"[{passages.LEFT_OUT[pb.SEARCH_OMISSION_NO_EMBEDDER]}]"
    [request] = [call.request for call in server.called("DocumentService.SearchDocuments")]
    assert (request.workspace_id, request.query, request.limit) == ("workspace-1", "who is it?", 1)
    assert request.filter == pb.SearchFilter(collection_ids=["c-1"], document_ids=["d-1"])


@pytest.mark.usefixtures("signed_in")
async def test_a_search_that_finds_nothing_says_so(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("DocumentService.SearchDocuments", answer(pb.SearchDocumentsResponse()))
    ran = await aiws("documents", "search", "nothing")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "Nothing was found.\n")
    ran = await aiws("documents", "search", "nothing", "--json")
    assert json.loads(ran.stdout) == {"passages": [], "omissions": []}


def text_of(server: ScriptedServer, text: str) -> None:
    """Answer GetDocumentText from this text, as the server does."""

    async def get(request: pb.GetDocumentTextRequest, context: Context) -> Message:
        part = text[request.offset : request.offset + request.length]
        return pb.GetDocumentTextResponse(version=7, offset=request.offset, text=part, text_length=len(text))

    server.script("DocumentService.GetDocumentText", get)


@pytest.mark.usefixtures("signed_in")
async def test_a_text_is_printed_from_its_parts(server: ScriptedServer, aiws: Aiws) -> None:
    text = "Grüße \x1b[2J😀\n" * 10_000
    text_of(server, text)
    ran = await aiws("documents", "text", "document-1")
    assert (ran.returncode, ran.stdout) == (0, text.replace("\x1b", ""))
    requests = [call.request for call in server.called("DocumentService.GetDocumentText")]
    assert [(each.version, each.offset) for each in requests] == [(0, 0), (7, 65_536)]
    ran = await aiws("documents", "text", "document-1", "--offset", "2", "--length", "4")
    assert ran.stdout == "üße \n"
    ran = await aiws("documents", "text", "document-1", "--length", "1", "--version", "7", "--json")
    [part] = json.loads(ran.stdout)
    assert (part["text"], part["version"], part["text_length"]) == ("G", 7, str(len(text)))


@pytest.mark.usefixtures("signed_in")
async def test_similar_documents_are_listed(server: ScriptedServer, aiws: Aiws) -> None:
    alike = pb.SimilarDocument(document_id="document-2", document_name=HOSTILE, score=0.5)
    server.script("DocumentService.GetSimilar", answer(pb.GetSimilarResponse(documents=[alike])))
    ran = await aiws("documents", "similar", "document-1")
    assert (ran.returncode, ran.stdout.splitlines()[1].rstrip()) == (0, f"document-2  {CLEAN}  0.500")


@pytest.mark.usefixtures("signed_in")
async def test_what_cannot_be_retried_says_what_can_be_done(server: ScriptedServer, aiws: Aiws) -> None:
    refuse = failure(grpc.StatusCode.FAILED_PRECONDITION, "DOCUMENT_NOT_FAILED", "The document is not FAILED.")

    async def refused(request: pb.RetryDocumentRequest, context: Context) -> Message:
        return await refuse(context)

    server.script("DocumentService.RetryDocument", refused)
    ran = await aiws("documents", "retry", "document-1")
    assert ran.returncode == 1
    assert "error: The document is not FAILED." in ran.stderr
    assert "aiws documents show ID" in ran.stderr


@pytest.mark.usefixtures("signed_in")
async def test_reindexing_everything_is_asked_for(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("DocumentService.ReindexDocuments", answer(pb.ReindexDocumentsResponse(document_count=2)))
    assert (await aiws("documents", "reindex", stdin="n\n")).returncode == 1
    assert server.called("DocumentService.ReindexDocuments") == []
    assert "Reading 2 documents again." in (await aiws("documents", "reindex", "--yes")).stderr
    assert (await aiws("documents", "reindex", "d-1", "d-2")).returncode == 0
    requests = [call.request for call in server.called("DocumentService.ReindexDocuments")]
    assert [(each.workspace_id, list(each.document_ids)) for each in requests] == [
        ("workspace-1", []),
        ("workspace-1", ["d-1", "d-2"]),
    ]


@pytest.mark.usefixtures("signed_in")
async def test_a_conversation_is_based_on_documents(server: ScriptedServer, aiws: Aiws) -> None:
    made = chat_pb2.Conversation(conversation_id="conversation-1")
    server.script("ChatService.CreateConversation", answer(chat_pb2.CreateConversationResponse(conversation=made)))
    server.script("ChatService.UpdateConversation", answer(chat_pb2.UpdateConversationResponse(conversation=made)))
    connections(server, *[(whole_run(), None)] * 4)
    assert (await aiws("chat", "Hello")).returncode == 0
    assert (await aiws("chat", "Hello", "--documents")).returncode == 0
    assert (await aiws("chat", "Hello", "--last", "--no-documents")).returncode == 0
    assert (await aiws("chat", "Hello", "--last", "--collection", "c-1", "--collection", "c-2")).returncode == 0
    plain, based = [call.request for call in server.called("ChatService.CreateConversation")]
    assert not plain.HasField("retrieval")
    assert based.retrieval.all_documents
    none, some = [call.request for call in server.called("ChatService.UpdateConversation")]
    assert none.conversation.HasField("retrieval")
    assert not none.conversation.retrieval.all_documents
    assert none.update_mask.paths == ["retrieval"]
    assert list(some.conversation.retrieval.collection_ids) == ["c-1", "c-2"]
    ran = await aiws("chat", "Hello", "--documents", "--collection", "c-1")
    assert (ran.returncode, "Either --collection or --documents." in ran.stderr) == (2, True)
