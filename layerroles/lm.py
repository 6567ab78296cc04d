"""Keep `layerroles.lm.AblatedLM` as an alias, for scripts written for earlier versions."""

from layerroles.harness import AblatedLM as AblatedLM
