"""4. Text that is not UTF-8 and does not say what it is."""

import pytest

from aiworkspace.v1 import document_pb2 as pb
from tests.support.documents import find, read, read_text
from tests.support.people import Place

SENTENCE = "北京的秋天天气很好。很多游客来到这里参观故宫和长城。"
PRICES = "Die Straße kostet 5 € im Jahr. Größere Häuser zahlen zehn Euro mehr."
INPUTS = {
    "gbk": (f"编号,句子\n1,{SENTENCE}\n".encode("gbk"), "a.csv", SENTENCE, "长城"),
    "utf-16-le": (f"编号,句子\n1,{SENTENCE}\n".encode("utf-16-le"), "a.csv", SENTENCE, "游客"),
    "cp1252": (PRICES.encode("cp1252"), "a.txt", PRICES, "Straße"),
}
OTHERS = ("上海的地铁每天运送一千万人。", "Der Bach fließt an der Mühle vorbei.")


@pytest.mark.parametrize("encoding", INPUTS)
async def test_text_of_another_encoding_is_readable_and_found(place: Place, encoding: str) -> None:
    data, name, text, inner = INPUTS[encoding]
    document = await read(place.owner, place.workspace_id, data, name=name)
    for other in OTHERS:
        await read(place.owner, place.workspace_id, other.encode())
    assert document.state == pb.DOCUMENT_STATE_READY
    assert text in await read_text(place.owner, document.document_id)
    assert text in (await find(place.owner, document, inner)).text
