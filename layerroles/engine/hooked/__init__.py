"""The executor on hooks: any model and ablation, the layers before an edit read once."""
