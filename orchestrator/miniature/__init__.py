"""A small stand-in for SDXL: a trainer, a generator, a face pack and portraits that run on two CPU cores."""
