"""Memory and speed of the real trainer at full size, measured on a CUDA GPU; see __main__.py."""
