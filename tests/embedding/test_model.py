"""The built-in model against vectors of sentence-transformers 6.2 on torch 2.13, for the same weights."""

import numpy as np
import pytest

from aiworkspace_server.embedding.process import TextProcess

TEXTS = [
    "A cat sat on the mat.",
    "The boundary layer over a flat plate in hypersonic flow.",
    "Wie hoch ist die Kündigungsfrist? Drei Monate zum Quartalsende.",
    "猫坐在垫子上。 🐈",
    "word " * 600,  # longer than the window
]
BEGINNINGS = [
    [0.12081, -0.02354, -0.03669, 0.05646, -0.06599, 0.02888, 0.04534, 0.02454],
    [0.04376, -0.00603, 0.05811, -0.06005, -0.04855, 0.0009, -0.02276, 0.02048],
    [-0.00388, 0.01428, 0.03213, 0.05863, -0.01508, 0.07656, 0.03061, 0.13077],
    [-0.01612, 0.07302, 0.04097, -0.00688, -0.02939, 0.01493, 0.14789, -0.01007],
    [-0.00812, -0.09559, -0.03867, 0.04966, -0.04379, 0.02372, -0.01814, -0.02021],
]
COSINES = [
    [1.0, -0.00011, 0.03838, 0.09757, 0.11476],
    [-0.00011, 1.0, -0.01219, 0.02454, 0.01539],
    [0.03838, -0.01219, 1.0, 0.05221, 0.02239],
    [0.09757, 0.02454, 0.05221, 1.0, 0.05441],
    [0.11476, 0.01539, 0.02239, 0.05441, 1.0],
]


async def test_vectors_equal_those_of_the_reference(process: TextProcess) -> None:
    vectors = (await process.embed(TEXTS)).vectors
    assert vectors.shape == (5, 384)
    assert vectors.dtype == np.float32
    assert vectors[:, :8] == pytest.approx(np.array(BEGINNINGS), abs=1e-5)
    assert vectors @ vectors.T == pytest.approx(np.array(COSINES), abs=2e-5)


async def test_vector_does_not_depend_on_the_other_texts(process: TextProcess) -> None:
    together = (await process.embed([*TEXTS, *TEXTS[::-1], "a"] * 3)).vectors
    alone = (await process.embed(TEXTS[:1])).vectors
    assert together[0] == pytest.approx(alone[0], abs=1e-6)
    assert together[9] == pytest.approx(alone[0], abs=1e-6)


async def test_tokens_are_those_that_are_read(process: TextProcess) -> None:
    assert (await process.embed(["a b c"])).token_count == 5, "with the special ones"
    assert (await process.embed(["word " * 600, "a"])).token_count == 256 + 3


async def test_text_without_words_has_a_vector(process: TextProcess) -> None:
    vectors = (await process.embed(["", " \n", "\u200b", "x" * 5000])).vectors
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 1], abs=1e-5)


async def test_no_texts_have_no_vectors(process: TextProcess) -> None:
    assert len((await process.embed([])).vectors) == 0
