"""Tasks that lm-eval can no longer load as it ships them, for its `include_path`."""
