"""`layerroles.lm.AblatedLM`, where scripts of earlier versions look for it."""

from layerroles.harness import AblatedLM as AblatedLM
