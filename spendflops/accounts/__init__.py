"""What a run costs: FLOP counters, the ledger, budgets and footprints."""
