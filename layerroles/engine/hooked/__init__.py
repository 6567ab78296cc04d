"""The hooked executor: it runs TransformerLens's own blocks from the first ablated layer on."""
