"""The fused executor: requests packed into rows, read and decoded under many conditions."""
