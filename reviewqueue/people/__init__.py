"""Who may do what: people with a role, backends with keys and secrets.

`access` answers every "may they?", `sign_in` lets people in, `backends` keeps keys and secrets.
"""
