"""What in a grid or a trl recipe will not do what its author thinks. Torch-free."""
