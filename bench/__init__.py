"""Measures of how fast and how large; each prints a table and, with --json, the figures."""
