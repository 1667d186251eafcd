"""Models of runs, or of anybody's folder, scored on the suites of `eval` through lm-eval."""
