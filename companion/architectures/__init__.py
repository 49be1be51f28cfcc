"""Chapter 3, Architectures: convolution, recurrence and attention, from scratch and for use."""
