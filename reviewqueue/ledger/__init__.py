"""What happened, for good: a chain of entries nobody can quietly change.

`record` appends inside the caller's transaction, `verify` proves that nothing was changed since.
"""
