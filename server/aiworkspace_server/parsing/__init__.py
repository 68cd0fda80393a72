"""Turns the bytes of a file into one canonical text with places, in a child process that may do nothing else.

`Parser` is the parent's side; `child` runs as a process of its own. Knows no domain.
"""
