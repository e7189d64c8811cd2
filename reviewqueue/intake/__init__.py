"""An LLM output arrives: read strictly, recognised when it is a repeat, routed and stored as an item.

Verbs: submit, submit_batch, withdraw, seal, import_lines, export_lines. A stored item goes on to review.
"""
