"""The memory of a training step on a device that is not here: the real update under fake tensors."""
