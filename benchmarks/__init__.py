"""Side-by-side measurements: every figure is a ratio of things that ran in turn, on the same data and the same disk, in one run."""
