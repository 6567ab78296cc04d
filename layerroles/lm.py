"""`layerroles.lm.AblatedLM`, kept as an alias for scripts written for earlier versions."""

from layerroles.harness import AblatedLM as AblatedLM
