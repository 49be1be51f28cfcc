"""Chapter 4, Optimization: optimizers, schedules, regularization, preprocessing, tuning."""
