"""Modules for `--network_module` of gen_img.py. This folder alone is on PYTHONPATH there."""
