"""The search around `senet`: recipes, search space, ledger, trials on Ray, tracking, reports."""
