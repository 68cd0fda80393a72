"""One conversation that goes on over all servers, and has to be in the order in which it was held."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count, cycle

from aiworkspace.v1 import chat_pb2
from tests.standin import Script
from tests.support.people import make_conversation

from .asking import Asked
from .trial import OPENAI, Trial, words

_ANSWER = Script(tokens=words(3))
_PAUSE_SECONDS = 0.2
_numbers = count(1)


@asynccontextmanager
async def conversing(at: Trial) -> AsyncIterator[None]:
    """Somebody who asks one thing after the other, each of the next server, until the context ends."""
    conversation_id, over = await make_conversation(at.asker.now, at.workspace_id, OPENAI), asyncio.Event()
    held: list[Asked] = []
    talking = asyncio.create_task(_talk(at, conversation_id, held, over))
    try:
        yield
    finally:
        over.set()
        await talking
    request = chat_pb2.ListMessagesRequest(conversation_id=conversation_id, page_size=500)
    messages = (await at.asker.now.chat.ListMessages(request)).messages
    questions = [each.contents[0].text for each in messages if each.role == chat_pb2.MESSAGE_ROLE_USER]
    said = [each.content for each in held]
    if questions != said:
        at.wrong.append(f"the conversation was {said} and is {questions}")


async def _talk(at: Trial, conversation_id: str, held: list[Asked], over: asyncio.Event) -> None:
    for asker in cycle([at.asker.at(server.address) for server in at.servers]):
        if over.is_set():
            return
        content = f"talk {next(_numbers)}, with words to count"
        at.site.standin.answer(content, _ANSWER)
        asked = Asked(content, conversation_id, OPENAI, "".join(_ANSWER.tokens))
        held.append(asked)
        at.asked.append(asked)
        await asker.ask(asked)
        await asyncio.sleep(_PAUSE_SECONDS)
