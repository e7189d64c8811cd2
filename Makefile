PY := .venv/bin/python

.PHONY: migration

migration: ## write the initial migration anew from the models (until the first release)
	@$(PY) migrations/initial.py
