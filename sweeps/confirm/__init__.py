"""`sweeps confirm`: a sweep's best configurations and baseline on fresh seeds, their best on the test split."""
