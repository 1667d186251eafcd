"""Algorithm 1 on real hardware. step.py is the step; loop.py runs it."""
