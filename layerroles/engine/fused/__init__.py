"""The fused executor: it packs requests into rows, and computes many conditions together."""
