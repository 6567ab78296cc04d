"""The hooked executor: TransformerLens's own blocks, resumed at the first ablated layer."""
