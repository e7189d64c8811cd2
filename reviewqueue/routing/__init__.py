"""Who must look at an item, if anyone: a project's policy, read from its file and applied to one item.

Verbs: apply, pause, resume, route, trial. A routed item goes on to review, or is released.
"""
