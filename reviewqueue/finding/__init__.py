"""Items are found, among all of them or in one queue; views are saved; many are decided at once.

Verbs: find, save, decide_batch. A job keeps the catalogue; what is found is opened on the desk.
"""
