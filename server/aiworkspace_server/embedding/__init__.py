"""Splits text into chunks and turns text into vectors. Knows nothing of documents and organizations."""
