"""Judges of chapter 2, Backpropagation."""
