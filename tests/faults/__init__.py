"""What holds when things break: `make faults` kills, stops and cuts all that takes part in a run, and counts losses.

Every experiment is a function with a name. It gets a Site, where the databases, the stand-in for the providers and the
servers under test are, and chance with a seed; it returns the figures of one row.
"""
