"""People decide: what waits, who holds it, what they see, what they say, what it settles.

Verbs: claim_next, renew, skip, decide, undo, settle. A settled item goes on to delivery and examples.
"""
