"""Log messages that identify the cause of a failed training or generation."""

import re

from orchestrator.model import Failure


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


PATTERNS = (
    (
        Failure.DISK_FULL,
        _any(r"No space left on device", r"Disk quota exceeded", r"There is not enough space on the disk"),
    ),
    (
        Failure.HOST_OOM,
        _any(
            r"DefaultCPUAllocator: (?:can't allocate|not enough) memory",
            r"DataLoader worker \(pid\S*(?: \d+)?\) is killed by signal: (?:Killed|Bus error)",
            r"\bMemoryError\b",
            r"\bstd::bad_alloc\b",
            r"Cannot allocate memory",
            r"The paging file is too small",
        ),
    ),
    (
        Failure.OOM,
        _any(
            r"(?:CUDA|HIP|XPU) out of memory",  # torch.cuda.OutOfMemoryError until 2.4, torch.OutOfMemoryError since
            r"\bOutOfMemoryError\b",
            r"CUDA error: out of memory",
            r"cudaErrorMemoryAllocation",
            r"(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED",
            r"(?:CUBLAS|CUDNN)_STATUS_NOT_INITIALIZED",  # the handle is created at first use, when the GPU is full
            r"NVML_SUCCESS == \w+ INTERNAL ASSERT FAILED",  # the allocator reports out-of-memory while NVML is missing
            r"Error out of memory at line \d+",  # bitsandbytes
        ),
    ),
    (
        Failure.GPU_LOST,
        _any(
            r"CUDA error: unspecified launch failure",
            r"CUDA error: the launch timed out and was terminated",
            r"CUDA error: an illegal memory access was encountered",
            r"CUDA error: uncorrectable ECC error",
            r"CUDA error: unknown error",
            r"CUDA-capable device\(s\) is/are busy or unavailable",
            r"no CUDA-capable device is detected",
            r"No CUDA GPUs are available",
            r"GPU is lost",
            r"Unable to determine the device handle for GPU",
            r"Driver/library version mismatch",
            r"Found no NVIDIA driver on your system",
        ),
    ),
    (
        Failure.DATASET,
        _any(
            r"No data found",
            r"UnidentifiedImageError",
            r"image file is truncated",
            r"broken data stream when reading image file",
            r"DecompressionBomb",
            r"caption file is empty",
            r"illegal char in file \(not UTF-8\)",
            r"image too large, but cropping and bucketing are disabled",
            r"image size is small",
            r"(?:missing|extra) conditioning data",
            r"size of conditioning image is not match",
            r"BadZipFile",  # a truncated latent cache
            r"NaN detected in (?:latents|text encoder outputs)",
        ),
    ),
    (
        Failure.BAD_CONFIG,
        _any(
            r"error: (?:unrecognized arguments|argument --|the following arguments are required)",
            r"\.toml not found\.",
            r"TomlDecodeError",
            r"MultipleInvalid",
            r"(?m:^(?:ImportError|ModuleNotFoundError):)",
            r"module '[\w.]+' has no attribute",
            r"does not require `num_warmup_steps`",
            r"is not a valid SchedulerType",
            r"malformed node or string",
            r"unexpected keyword argument",
            r"Setting different lr values in different parameter groups",
        ),
    ),
    (Failure.KILLED, _any(r"(?m:^KeyboardInterrupt)")),
)
"""Messages by cause, in order of priority, searched in the whole tail: the last line is often a progress bar."""

BY_SIGNAL = {
    "SIGKILL": Failure.HOST_OOM,  # sent by the kernel; orchestrate records its own kills separately
    "SIGINT": Failure.KILLED,
    "SIGTERM": Failure.KILLED,
    "SIGHUP": Failure.KILLED,
}
"""The cause that a signal implies; any other signal is a crash."""
