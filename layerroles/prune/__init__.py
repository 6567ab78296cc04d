from layerroles.prune.checkpoint import export as export
