"""Measurements of real servers, each against something that ran a moment before or after: only ratios travel.

    make bench                              everything, about three minutes
    make bench ARGS='--quick'               a few seconds per row, to see that it works
    make bench ARGS='--only tokens'         one row

Server under test and reference take turns on a core of their own, the load generator, the provider and the databases
have the rest. Linux only: cores are pinned and CPU time is read from /proc.
"""
