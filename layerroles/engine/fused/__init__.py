"""The fused executor: one pass over packed requests serves all conditions of a unit."""
