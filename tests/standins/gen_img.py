"""`benchmarks.gpu.full` around gen_img.py: writes the report of memory, and a coloured image for each of the plans."""

import argparse
import json
import sys
from pathlib import Path

from PIL import Image

from orchestrator.kohya import gen_img_plugin


def main(report: str, _script: str, *words: str) -> None:
    parser = argparse.ArgumentParser()
    for name in ("outdir", "prompter_module_args", "from_module"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options, _ = parser.parse_known_args(words)
    assert options.from_module.is_file()
    Path(report).write_text(json.dumps({"reserved_gib": 1.5}), encoding="utf-8")
    for plan in gen_img_plugin.plans(options):
        for image in plan["images"]:
            number = int(Path(plan["loras"][image["lora"]]).stem[-1])
            Image.new("RGB", (8, 8), (image["seed"], number, 0)).save(Path(options.outdir) / image["file"])


if __name__ == "__main__":
    main(*sys.argv[1:])
