"""Plan which forward passes the engine runs, and estimate their time and memory beforehand."""
