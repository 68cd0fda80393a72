"""Models that answer: one adapter per wire format, what they cost, and which of them this server can use."""
