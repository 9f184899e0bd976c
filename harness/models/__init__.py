"""Finding a model without loading it (`catalog`, torch-free), loading and saving it, and the embedded `tiny`."""
