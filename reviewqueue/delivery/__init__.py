"""The backend learns: a decision becomes a signed callback, tried until it is received or visibly dead.

`schedule` and `deliver` carry the work, `callback` makes one HTTP call, `guard` says whom it may reach.
"""
