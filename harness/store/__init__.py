"""What outlives a process: jobs, attempts, records, evaluations. Atomic, crash-safe, torch-free."""
