"""Where people review: the desk, the queues, the review page and the item page.

Pages over review's verbs; `seen` says who may see what of an item, `form` reads what was typed.
"""
