"""The laboratory: what a request costs, here and on the peers. Run ``python -m perf --help``.

Rules of this package: a number is printed only next to its spread, every raw sample is kept, and
servers and scenarios are rows of a table (peers.py, scenarios.py), never special cases in code.
This file must import nothing: it is loaded inside every server under test, by interpreters that
do not have our dependencies. The shardserve package never imports perf.
"""
