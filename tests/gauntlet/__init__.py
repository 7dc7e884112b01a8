"""People's own awkward networks against every entry point: right, refused, or wrong.

Networks are in `kinds`, truth in `truth` (float64 differences of the raw network along tangents of
its own), verdicts in `verdicts`. ``python -m tests.gauntlet`` prints the table.
"""
