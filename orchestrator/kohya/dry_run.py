"""Starts sd-scripts on configs and stops each training before it loads the base model.

    python dry_run.py SD_SCRIPTS TRAIN_SCRIPT CONFIG...

It runs in the trainer's interpreter (Python 3.10 or later, with sd-scripts but without orchestrate), without a GPU.
sd-scripts itself parses each config and loads its dataset, and creates its optimizer and scheduler for one parameter. A
training changes global state, so each runs in a fork of the process that has imported sd-scripts.

The log of CONFIG is CONFIG.log. The last line of the output is a JSON list of exit codes, 0 for each config that is
accepted; there is none if sd-scripts cannot be imported. CONFIG.tokens, where sd-scripts has a tokenizer, is a JSON
table of the tokens that it counts: `limit` (those of a caption that it reads), `captions` by image, and `texts`: of the
JSON list of texts in texts.json, beside CONFIG.
"""

import contextlib
import importlib
import json
import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class _Accepted(BaseException):
    """Raised where a training would start to load models; no handler of sd-scripts catches it."""


def main(sd_scripts: str, script: str, *configs: str) -> None:
    sys.path[:1] = [str(Path(script).parent), sd_scripts]  # not this folder: its networks.py would hide sd-scripts' own
    vars(importlib.import_module("library.train_util"))["prepare_accelerator"] = _stop
    vars(importlib.import_module("library.sdxl_train_util"))["load_target_model"] = _stop
    with contextlib.suppress(ModuleNotFoundError):
        vars(importlib.import_module("library.accelerator_setup"))["prepare_accelerator"] = _stop  # since v0.11
    runpy.run_path(script, run_name="imported")
    codes = [_exit_code(script, config) for config in configs]
    print("\n" + json.dumps(codes))


def _exit_code(script: str, config: str) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        log = os.open(f"{config}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = [script, "--config_file", config]
        runpy.run_path(script, run_name="__main__")
    except _Accepted:
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) and ended.code else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stop(args: Any, *_: Any, **__: Any) -> None:
    """In place of sd-scripts' functions, which train() calls: all that can be checked without a model."""
    import torch

    with contextlib.suppress(Exception):  # without counts, the caller has its own estimate
        counts = _tokens(args, sys._getframe(1).f_locals)
        Path(f"{sys.argv[2]}.tokens").write_text(json.dumps(counts), encoding="utf-8")
    train_util = importlib.import_module("library.train_util")
    importlib.import_module(args.network_module)
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": args.unet_lr or args.learning_rate}]
    optimizer = train_util.get_optimizer(args, parameters)[2]
    train_util.get_scheduler_fix(args, optimizer, 1)
    raise _Accepted


def _tokens(args: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Counts by the tokenizers of a training with these variables, without the marks of start and end."""
    tokenizer = importlib.import_module("library.strategy_base").TokenizeStrategy.get_strategy().tokenizer1
    parts = importlib.import_module("library.custom_train_functions").parse_prompt_attention

    def count(text: str, *, weighted: bool) -> int:
        plain = [part for part, _ in parts(text)] if weighted else [text]
        return len(tokenizer("".join(plain)).input_ids) - 2

    def longest(caption: str) -> int:
        return max(count(line, weighted=args.weighted_captions) for line in caption.split("\n"))

    texts = json.loads(Path(sys.argv[2]).with_name("texts.json").read_text(encoding="utf-8"))
    return {
        "limit": args.max_token_length or tokenizer.model_max_length - 2,
        "captions": {path: longest(caption) for path, caption in _captions(variables["train_dataset_group"])},
        "texts": [count(text, weighted=True) for text in texts],
    }


def _captions(group: Any) -> Iterator[tuple[str, str]]:
    """Path and caption of each image; with `enable_wildcard`, the trainer draws one of its lines."""
    for dataset in group.datasets:
        subsets = getattr(dataset, "dreambooth_dataset_delegate", dataset).image_to_subset
        for key, info in dataset.image_data.items():
            subset = subsets[key]
            lines = info.caption.split("\n")[: None if subset.enable_wildcard else 1]
            affixed = (" ".join(filter(None, (subset.caption_prefix, line, subset.caption_suffix))) for line in lines)
            yield info.absolute_path, "\n".join(affixed)


if __name__ == "__main__":
    main(*sys.argv[1:])
