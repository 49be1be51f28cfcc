"""The graders of chapter 3, Architectures."""
