"""`sdxl_train_network.py` over a tiny SDXL: what a test's settings name as `trainer.train_script`."""

import tiny_sdxl

if __name__ == "__main__":
    tiny_sdxl.run("sdxl_train_network.py")
