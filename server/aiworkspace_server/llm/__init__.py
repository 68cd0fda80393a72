"""Language models: one adapter per wire format, the registry of providers, and prices."""
