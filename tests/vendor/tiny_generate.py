"""`gen_img.py` over a tiny SDXL: what a test's settings name as `trainer.generate_script`."""

import tiny_sdxl

if __name__ == "__main__":
    tiny_sdxl.run("gen_img.py")
