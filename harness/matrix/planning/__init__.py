"""From cells to a plan: runs, evaluations, hours, dollars, memory. Imports nothing of execution."""
