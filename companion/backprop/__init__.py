"""Chapter 2, Backpropagation: losses, layers, autograd and linear regression from scratch."""
