"""Plan which passes are run, and estimate their time and memory before they are run."""
