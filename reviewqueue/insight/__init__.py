"""What it adds up to: figures of a project over a period, read from everything and written nowhere.

Verb: figures. Nothing imports this folder.
"""
