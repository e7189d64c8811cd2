"""Corrections go back into prompts: proposed with a decision, promoted by a second person,
served to backends by nearness to their input. Verbs: propose, promote, retire, search, export.
"""
