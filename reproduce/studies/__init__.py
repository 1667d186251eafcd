"""Evidence that runs in seconds on a CPU: toy regression, DRO, the theorems by number."""
