"""From a grid to finished records: planner, estimate, scheduler, executors, worker."""
