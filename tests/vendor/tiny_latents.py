"""`tools/cache_latents.py` over a tiny SDXL: what a test's settings name as `trainer.latents_script`."""

import tiny_sdxl

if __name__ == "__main__":
    tiny_sdxl.run("tools/cache_latents.py")
