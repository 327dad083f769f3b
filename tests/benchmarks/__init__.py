"""Benchmarks: `make bench`. They print a table and are no part of the tests.

Machines are noisy and unlike each other, so each figure stands beside something that was
measured in the same run, and the bounds are on the ratio where that is what matters.
"""
