"""A doll's house of SDXL: a trainer, a generator, a face pack and portraits, small enough for two CPU cores."""
