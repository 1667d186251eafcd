"""Reproduction suite for dynamic loss-based sample reweighting (ICLR 2025)."""

__version__ = "0.1.0"
