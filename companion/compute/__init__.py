"""Compute accounting: parameters, operations and bytes of a model and of its training."""
