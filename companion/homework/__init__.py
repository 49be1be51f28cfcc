"""The graders behind ``companion check``."""
