"""The Cranfield collection, and how well a ranking answers its questions."""

import math
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_RESAMPLED = 10_000


class Collection(NamedTuple):
    """Texts by their number, questions by their position, and the relevant texts of each question."""

    texts: dict[int, str]
    questions: dict[int, str]
    relevant: dict[int, set[int]]


def load(directory: Path) -> Collection:
    """Read the collection. Every grade above 0 is relevant; texts without a word are left out."""
    documents = ET.fromstring(f"<all>{(directory / 'cran.all.1400.xml').read_text()}</all>")
    texts = {int(_text(each, "docno")): _text(each, "text") for each in documents.iter("doc")}
    topics = ET.fromstring((directory / "cran.qry.xml").read_text())
    questions = {position: _text(topic, "title") for position, topic in enumerate(topics.iter("top"), 1)}
    relevant: defaultdict[int, set[int]] = defaultdict(set)
    for line in (directory / "cranqrel.trec.txt").read_text().splitlines():
        question, _, document, grade = map(int, line.split())
        if grade > 0:
            relevant[question].add(document)
    return Collection({number: text for number, text in texts.items() if text}, questions, dict(relevant))


def _text(element: ET.Element, name: str) -> str:
    return re.sub(r"[ \n]+", " ", element.findtext(name) or "").strip()


class Quality(NamedTuple):
    """Of each question, in the order of the collection."""

    ndcg: NDArray[np.float64]  # of the first 10
    recall: NDArray[np.float64]  # of the first 100


def judge(collection: Collection, rankings: Mapping[int, Sequence[int]]) -> Quality:
    questions = list(collection.questions)
    return Quality(
        np.array([_ndcg(rankings[each], collection.relevant[each]) for each in questions]),
        np.array([_recall(rankings[each], collection.relevant[each]) for each in questions]),
    )


def _ndcg(ranking: Sequence[int], relevant: set[int]) -> float:
    gained = sum(1 / math.log2(rank + 1) for rank, each in enumerate(ranking[:10], 1) if each in relevant)
    return gained / sum(1 / math.log2(rank + 1) for rank in range(1, min(len(relevant), 10) + 1))


def _recall(ranking: Sequence[int], relevant: set[int]) -> float:
    return len(relevant & set(ranking[:100])) / len(relevant)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the bounds between which 95 % of the means of resampled questions lie."""
    picks = np.random.default_rng(0).integers(0, len(values), (_RESAMPLED, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
