"""Memory and speed of the real trainer at full size, measured on a CUDA card; see __main__.py."""
