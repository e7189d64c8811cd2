"""How it runs: everything on one machine by one program, or its parts on many.

`stack` supervises, `relay` finds what is due, `doctor` says what is wrong. No item is known here.
"""
