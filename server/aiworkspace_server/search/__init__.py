"""Search in the chunks of documents: full text and vectors in PostgreSQL, fused by rank."""
