"""What shows that the product is safe: `make security` runs these tests alone and tells of each class and invariant.

Every class of vulnerabilities that has to do with identity, tenancy and money, and every invariant of these, of streams
and of faults, names its tests: a file, or one test of a file, also with one of its parameters. One that names a test
which is gone, or which has none that passed, fails the command.
"""
