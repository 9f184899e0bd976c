"""What a user writes: grid, run recipe, hardware and prices; and what identifies a run. Torch-free."""
