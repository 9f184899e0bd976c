"""From a plan to results: scheduler, device pool, budget, progress, probe, clean-up."""
