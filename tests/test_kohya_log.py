"""Progress and causes of failures are read from real logs and from the exact messages of rare failures."""

import math
import signal
import time
from pathlib import Path

import pytest

from orchestrator.kohya.outputs import log
from orchestrator.model import Failure, Progress

LOGS = Path(__file__).parent / "fixtures" / "trainer-logs"


def read(name: str) -> str:
    return (LOGS / f"{name}.log").read_text(encoding="utf-8")


def test_the_last_bar_of_a_real_training() -> None:
    assert log.read_progress(read("train-finished")) == Progress(step=4, total=4, seconds_per_step=3.32, loss=1.61)
    assert log.total_steps(read("train-finished")) == 4


@pytest.mark.parametrize(
    ("bar", "progress"),
    [
        (
            "steps:  42%|████▏     | 5/12 [01:07<01:33, 13.40s/it, avr_loss=1.07]",
            Progress(step=5, total=12, seconds_per_step=13.4, loss=1.07),
        ),
        (
            "steps:  50%|█████     | 6/12 [00:03<00:03,  2.00it/s, Keys Scaled=3, Average key norm=0.1, avr_loss=0.2]",
            Progress(step=6, total=12, seconds_per_step=0.5, loss=0.2),
        ),
        ("steps:   0%|          | 0/12 [00:00<?, ?it/s]", Progress(step=0, total=12)),
        (
            "steps:  42%|████▏     | 5/12 [1:01:07<01:33, 13.40s/it]2026-11-22 INFO  glued",
            Progress(step=5, total=12, seconds_per_step=13.4),
        ),
    ],
)
def test_progress_bars_of_all_forms(bar: str, progress: Progress) -> None:
    before = "steps:   8%|▊         | 1/12 [00:01<00:11,  1.00s/it, avr_loss=9]\r"
    after = "\rvalidation steps:  10%|█         | 1/10 [00:01<00:09,  1.00s/it]\n"
    assert log.read_progress(before + bar + after) == progress


def test_the_speed_of_later_steps_leaves_out_the_first() -> None:
    bars = [f"steps:  10%|#    | {step}/9 [00:05<00:20, {rate}, avr_loss=0.1]" for step, rate in
            ((0, "?it/s"), (1, "9.00s/it"), (2, "5.00s/it"), (6, "2.33s/it"))]  # fmt: skip
    assert log.seconds_per_later_step("\r".join(bars)) == pytest.approx(1.0, abs=0.01)
    assert log.seconds_per_later_step("\r".join(bars[:2])) is None


def test_a_nan_loss_is_reported() -> None:
    progress = log.read_progress(read("train-nan"))
    assert progress is not None
    assert progress.loss is not None
    assert math.isnan(progress.loss)


def test_a_log_without_a_bar_has_no_progress() -> None:
    assert log.read_progress(read("train-no-data")) is None
    assert log.total_steps("") is None


def test_images_of_a_real_generation() -> None:
    assert log.read_images(read("generate-four-loras-merged")) == Progress(step=16, total=16)
    assert log.read_images(read("train-finished")) is None


@pytest.mark.parametrize(
    ("name", "code", "failure", "reason"),
    [
        ("train-cuda-oom", 1, Failure.OOM, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"),
        ("train-cuda-oom-crowded", 1, Failure.OOM, "Process 1024 has 124.79 GiB memory in use"),
        ("train-no-data", 0, Failure.DATASET, "No data found"),
        ("train-nan", 0, Failure.NAN, "the loss is nan at step 6"),
        ("train-argparse-accelerate", 1, Failure.BAD_CONFIG, "unrecognized arguments: --netwrok_dim 4"),
        ("train-constant-warmup", 1, Failure.BAD_CONFIG, "ValueError: SchedulerType.CONSTANT does not require"),
        ("train-no-network", 1, Failure.NETWORK, "requests.exceptions.ConnectionError: (MaxRetryError("),
        ("train-killed-accelerate", 1, Failure.HOST_OOM, "killed by SIGKILL"),
    ],
)
def test_causes_in_real_logs(name: str, code: int, failure: Failure, reason: str) -> None:
    found = log.classify(read(name), code)
    assert found is not None
    assert found[0] is failure
    assert reason in found[1]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("train-cuda-oom-crowded", "out of memory at 139.8 of 140 GiB; Process 1024 has 124.79 GiB memory in use"),
        ("train-cuda-oom", "torch.OutOfMemoryError: CUDA out of memory. Tried"),  # its limit is lower than the GPU
        ("train-nan", "the loss is nan at step 6"),
    ],
)
def test_an_out_of_memory_is_shortened_to_the_use_of_the_gpu(name: str, short: str) -> None:
    found = log.classify(read(name), 1)
    assert found is not None
    text = log.shorten(f"{found[1]}; trying again")
    assert text.startswith(short)
    assert text.endswith("; trying again")
    assert len(text) < 100 or not text.startswith("out")


@pytest.mark.parametrize("name", ["train-finished", "generate-one-lora", "generate-four-loras-merged"])
def test_a_successful_process_has_no_cause(name: str) -> None:
    assert log.classify(read(name), 0) is None
    assert log.classify(read(name) + "OSError: [Errno 5] Input/output error\n", 0) is None  # it was handled


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", Failure.OOM),
        ("RuntimeError: CUDA error: out of memory", Failure.OOM),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", Failure.OOM),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", Failure.OOM),
        ("RuntimeError: NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:1090", Failure.OOM),
        ("Error out of memory at line 380 in file /src/csrc/ops.cu", Failure.OOM),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
            Failure.HOST_OOM,
        ),
        ("RuntimeError: DataLoader worker (pid 4242) is killed by signal: Killed.", Failure.HOST_OOM),
        ("RuntimeError: DataLoader worker (pid(s) 4242) is killed by signal: Bus error.", Failure.HOST_OOM),
        ("MemoryError", Failure.HOST_OOM),
        ("numpy.core._exceptions._ArrayMemoryError: Unable to allocate 36.0 MiB for an array with", Failure.HOST_OOM),
        (
            "cv2.error: OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate",
            Failure.HOST_OOM,
        ),
        ("RuntimeError: unable to write to file </torch_71_3>: No space left on device (28)", Failure.HOST_OOM),
        ("RuntimeError: unable to mmap 64 bytes from the file </torch_71_3>: Cannot allocate", Failure.HOST_OOM),
        ("OSError: [Errno 28] No space left on device: '/dev/shm/x'", Failure.HOST_OOM),
        (
            "ERROR: Unexpected bus error in worker. It might be caused by insufficient shared memory (shm).",
            Failure.HOST_OOM,
        ),
        ("OSError: [Errno 28] No space left on device: '/runs/x'", Failure.DISK_FULL),
        ("safetensors_rust.SafetensorError: I/O error: No space left on device (os error 28)", Failure.DISK_FULL),
        ("RuntimeError: CUDA error: unspecified launch failure", Failure.GPU_LOST),
        ("RuntimeError: No CUDA GPUs are available", Failure.GPU_LOST),
        ("RuntimeError: CUDA error: the MPS client has been terminated by the server", Failure.GPU_LOST),
        ("Error 805: MPS client failed to connect to the MPS control daemon or the MPS server", Failure.GPU_LOST),
        ("RuntimeError: CUDA error: device-side assert triggered", Failure.UNKNOWN),  # a bug, not the GPU
        ("PIL.UnidentifiedImageError: cannot identify image file '/data/a.png'", Failure.DATASET),
        ("OSError: image file is truncated (3 bytes not processed)", Failure.DATASET),
        ("AssertionError: caption file is empty / キャプションファイルが空です: /data/a.txt", Failure.DATASET),
        ("zipfile.BadZipFile: File is not a zip file", Failure.DATASET),
        ("AttributeError: module 'torch.optim' has no attribute 'Prodgy'", Failure.BAD_CONFIG),
        ("ImportError: No bitsandbytes / bitsandbytesがインストールされていないようです", Failure.BAD_CONFIG),
        ("TypeError: '<=' not supported between instances of 'str' and 'float'", Failure.BAD_CONFIG),
        ("voluptuous.error.MultipleInvalid: extra keys not allowed @ data['datasets'][0]", Failure.BAD_CONFIG),
        ("RuntimeError: Setting different lr values in different parameter groups is only", Failure.BAD_CONFIG),
        ("KeyboardInterrupt", Failure.KILLED),
        ("RuntimeError: [enforce fail at inline_container.cc:626] . unexpected pos 64 vs 0", Failure.DISK_FULL),
        ("RuntimeError: CUDA driver error: out of memory", Failure.OOM),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", Failure.GPU_LOST),
        ("RuntimeError: CUDA error: the GPU has fallen off the bus", Failure.GPU_LOST),
        ("ValueError: fp16 mixed precision requires a GPU (not 'cpu').", Failure.GPU_LOST),
        ("RuntimeError: stack expects each tensor to be equal size, but got [4, 128, 128] at entry 0", Failure.DATASET),
        ("RuntimeError: DataLoader worker (pid 9) is killed by signal: Segmentation fault.", Failure.CRASHED),
        ("safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", Failure.BAD_CONFIG),
        (
            "RuntimeError: Error(s) in loading state_dict for LoRANetwork: size mismatch for lora_te1",
            Failure.BAD_CONFIG,
        ),
        ("RuntimeError: mat1 and mat2 must have the same dtype, but got Float and BFloat16", Failure.BAD_CONFIG),
        ("NotImplementedError: No operator found for `memory_efficient_attention_forward`", Failure.BAD_CONFIG),
        ("RuntimeError: CUDA error: no kernel image is available for execution on the device", Failure.BAD_CONFIG),
        ("RuntimeError: CUDA Setup failed despite GPU being available.", Failure.BAD_CONFIG),
        ("NameError: name 'str2optimizer8bit_blockwise' is not defined", Failure.BAD_CONFIG),
        ("torch._inductor.exc.TritonMissing: Cannot find a working triton installation.", Failure.BAD_CONFIG),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'nvidia-smi'", Failure.BAD_CONFIG),
        ("CalledProcessError: Command '['/usr/bin/gcc', 'a.c']' returned non-zero exit status 1.", Failure.BAD_CONFIG),
        ("/usr/bin/ld: cannot find -lcuda", Failure.BAD_CONFIG),
        ("RuntimeError: operator torchvision::nms does not exist", Failure.BAD_CONFIG),
        ("OSError: libcudart.so.12: cannot open shared object file: No such file", Failure.BAD_CONFIG),
        ("/x/python: No module named accelerate", Failure.BAD_CONFIG),
        ("wandb.errors.errors.UsageError: No API key configured.", Failure.BAD_CONFIG),
        ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", Failure.NETWORK),
        ("huggingface_hub.errors.LocalEntryNotFoundError: An error happened", Failure.NETWORK),
        ("OSError: Can't load tokenizer for 'openai/clip-vit-large-patch14'.", Failure.NETWORK),
        ("json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)", Failure.BAD_CONFIG),
        ("PermissionError: [Errno 13] Permission denied: '/out/lora.safetensors'", Failure.STORAGE),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/data/a.png'", Failure.STORAGE),
        (
            "safetensors_rust.SafetensorError: Error while serializing: IoError(Os { code: 13, kind: PermissionDenied",
            Failure.STORAGE,
        ),
        ("OSError: [Errno 30] Read-only file system: '/out/logs'", Failure.STORAGE),
        ("OSError: [Errno 5] Input/output error: '/mnt/data/a.png'", Failure.STORAGE),
        ("OSError: [Errno 116] Stale file handle", Failure.STORAGE),
        ("OSError: [Errno 107] Transport endpoint is not connected: '/content/drive/MyDrive'", Failure.STORAGE),
        ("RuntimeError: Parent directory /out/state does not exist.", Failure.STORAGE),
        ("OSError: [Errno 122] Disk quota exceeded", Failure.DISK_FULL),
        (
            "safetensors_rust.SafetensorError: Error while serializing: IoError(Os { code: 28, kind: StorageFull",
            Failure.DISK_FULL,
        ),
        (
            "RuntimeError: [enforce fail at inline_container.cc:471] . PytorchStreamWriter failed writing file data/0",
            Failure.DISK_FULL,
        ),
        ("OSError: [Errno 24] Too many open files", Failure.HOST_OOM),
        ("RuntimeError: Too many open files. Communication with the workers is no longer possible.", Failure.HOST_OOM),
        ("RuntimeError: can't start new thread", Failure.HOST_OOM),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.", Failure.HOST_OOM),
        ("RuntimeError: Address already in use", Failure.NETWORK),
        (
            "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. "
            "port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
            Failure.NETWORK,
        ),
        ("wandb.errors.errors.CommError: Run initialization has timed out after 90.0 sec.", Failure.NETWORK),
        (
            "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='huggingface.co', port=443): Read timed out. (",
            Failure.NETWORK,
        ),
        (
            "huggingface_hub.errors.HfHubHTTPError: 504 Server Error: Gateway Time-out for url: https://huggingface.co",
            Failure.NETWORK,
        ),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", Failure.NETWORK),
        ("ConnectionResetError: [Errno 104] Connection reset by peer", Failure.NETWORK),
        (
            "wandb.errors.UsageError: api_key not configured (no-tty). call wandb.login(key=[your_api_key])",
            Failure.BAD_CONFIG,
        ),
        (
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or",
            Failure.BAD_CONFIG,
        ),
        ("RuntimeError: CUDA error: invalid device function", Failure.BAD_CONFIG),
        (
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
            "NumCudaDevices() that might have already set an error? Error 804: forward compatibility was attempted on "
            "non supported HW",
            Failure.GPU_LOST,
        ),
        ("RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version", Failure.GPU_LOST),
        ("RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain.", Failure.GPU_LOST),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", Failure.GPU_LOST),
        ("NVRM: Xid (PCI:0000:41:00): 79, pid=1234, GPU has fallen off the bus.", Failure.GPU_LOST),
        ("RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable", Failure.GPU_LOST),
        ("RuntimeError: CUDA driver initialization failed, you might not have a CUDA gpu.", Failure.GPU_LOST),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied (77x768 and 2048x640)", Failure.BAD_CONFIG),
        ("RuntimeError: Input type (float) and bias type (c10::Half) should be the same", Failure.BAD_CONFIG),
        ("_pickle.UnpicklingError: invalid load key, 'v'.", Failure.BAD_CONFIG),
        (
            "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
            Failure.BAD_CONFIG,
        ),
        (
            "OSError: some/model is not a local folder and is not a valid model identifier listed on the Hub",
            Failure.BAD_CONFIG,
        ),
        ("srun: error: *** JOB 7 ON node1 CANCELLED AT 2026-05-01T10:00:00 DUE TO TIME LIMIT ***", Failure.KILLED),
        (
            "cv2.error: OpenCV(4.8.1) resize.cpp:4065: (-215:Assertion failed) !ssize.empty() in function 'resize'",
            Failure.DATASET,
        ),
        ("SyntaxError: broken PNG file (chunk b'\\x00\\x00\\x00\\x00')", Failure.DATASET),
        ("RuntimeError: cuDNN version incompatibility: compiled against (8, 9, 2)", Failure.BAD_CONFIG),
        ("torch._inductor.exc.InductorError: RuntimeError: Failed to find C compiler.", Failure.BAD_CONFIG),
        ("torch._dynamo.exc.Unsupported: Dynamo recompile limit exceeded", Failure.BAD_CONFIG),
        ("IndexError: list index out of range", Failure.BAD_CONFIG),
        ("UnboundLocalError: local variable 'text_encoder_conds' referenced before", Failure.BAD_CONFIG),
        ("RuntimeError: something new", Failure.UNKNOWN),
        ("Exception: something new", Failure.UNKNOWN),
        # bitsandbytes prints its CUDA errors and exits; HIP is AMD's CUDA
        ("Error an illegal memory access was encountered at line 88 in file /src/csrc/ops.cu", Failure.GPU_LOST),
        ("Error invalid device function at line 508 in file /src/csrc/ops.cu", Failure.BAD_CONFIG),
        ("RuntimeError: HIP error: invalid device function", Failure.BAD_CONFIG),
        ("torch.AcceleratorError: HIP error: out of memory", Failure.OOM),
        ("RuntimeError: CUDA error: misaligned address", Failure.GPU_LOST),
        ("RuntimeError: Configured CUDA binary not found at /x/libbitsandbytes_cuda130.so", Failure.BAD_CONFIG),
        ("RuntimeError: \"addmm_impl_cpu_\" not implemented for 'Half'", Failure.BAD_CONFIG),
        ("RuntimeError: \"index_select_cuda\" not implemented for 'Float8_e4m3fn'", Failure.BAD_CONFIG),
        ("RuntimeError: Promotion for Float8 Types is not supported, attempted to promote", Failure.BAD_CONFIG),
        ("RuntimeError: Expected all tensors to be on the same device, but found at least two", Failure.BAD_CONFIG),
        ("RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn", Failure.BAD_CONFIG),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`", Failure.BAD_CONFIG),
        ("triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 1", Failure.BAD_CONFIG),
        ("RuntimeError: Internal Triton PTX codegen error", Failure.BAD_CONFIG),
        ("SyntaxError: invalid syntax", Failure.BAD_CONFIG),
        ("_pickle.PicklingError: Can't pickle <function x>: attribute lookup failed", Failure.BAD_CONFIG),
        ("huggingface_hub.errors.EntryNotFoundError: 404 Client Error. (Request ID: x)", Failure.BAD_CONFIG),
        ("huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized for url", Failure.BAD_CONFIG),
        ("wandb.errors.errors.AuthenticationError: The API key you provided is invalid", Failure.BAD_CONFIG),
        ("OSError: cannot identify image file '/data/a.webp'", Failure.DATASET),
        ("OSError: Truncated File Read", Failure.DATASET),
        (
            "cv2.error: OpenCV(4.7.0) resize.cpp:4062: error: (-215:Assertion failed) inv_scale_x > 0 in function",
            Failure.DATASET,
        ),
        ("UnicodeDecodeError: 'utf-8' codec can't decode byte 0xb7 in position 10", Failure.DATASET),
        ("KeyError: 'hidden_state1 is not a file in the archive'", Failure.DATASET),
        ("zlib.error: Error -3 while decompressing data: invalid distance too far back", Failure.DATASET),
        ("EOFError: No data left in file", Failure.DATASET),
        ("RuntimeError: received 0 items of ancdata", Failure.HOST_OOM),
        ("BlockingIOError: [Errno 11] Resource temporarily unavailable", Failure.HOST_OOM),
        ("/bin/sh: line 1: 12345 Killed accelerate launch", Failure.HOST_OOM),
        ("slurmstepd: error: Job 1 exceeded memory limit (64000000 > 32000000), being killed", Failure.HOST_OOM),
        ("RuntimeError: DataLoader worker (pid(s) 10228, 9252) exited unexpectedly", Failure.CRASHED),
        ("RuntimeError: Pin memory thread exited unexpectedly", Failure.CRASHED),
        ("slurmstepd: error: *** JOB 1 ON n CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION", Failure.KILLED),
        ("torch.distributed.elastic.multiprocessing.api.SignalException: Process 4 got signal: 15", Failure.KILLED),
        ("PermissionError: [WinError 5] Access is denied: 'out'", Failure.STORAGE),
        ("IsADirectoryError: [Errno 21] Is a directory: '/models/base'", Failure.STORAGE),
        (
            "RuntimeError: Given groups=1, weight of size [320, 9, 3, 3], expected input[1, 4, 128, 128]",
            Failure.BAD_CONFIG,
        ),
        ("RuntimeError: Sizes of tensors must match except in dimension 1. Expected size 64 but", Failure.BAD_CONFIG),
        ("RuntimeError: The size of tensor a (154) must match the size of tensor b (77)", Failure.BAD_CONFIG),
        ("httpx.ReadError", Failure.NETWORK),
        ("wandb.sdk.lib.service.service_connection.WandbAttachFailedError: Failed to attach", Failure.NETWORK),
    ],
)
def test_causes_by_message(line: str, failure: Failure) -> None:
    frame = 'Traceback (most recent call last):\n  File "/x/train.py", line 3, in f\n    raise MemoryError()\n'
    echo = "\nsubprocess.CalledProcessError: Command '[...]' returned non-zero exit status 1."
    bar = "\nsteps:   0%|          | 0/12 [00:00<?, ?it/s]\n"
    found = log.classify(frame + line + bar + echo, 1)
    assert found is not None
    assert found[0] is failure
    assert found[1].startswith(line.split(" / ")[0])


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (-signal.SIGKILL, Failure.HOST_OOM),
        (128 + signal.SIGKILL, Failure.HOST_OOM),
        (-signal.SIGSEGV, Failure.CRASHED),
        (-signal.SIGTERM, Failure.KILLED),
        (-signal.SIGINT, Failure.KILLED),
        (2, Failure.BAD_CONFIG),
        (127, Failure.BAD_CONFIG),
        (1, Failure.UNKNOWN),
        (None, Failure.CRASHED),
    ],
)
def test_causes_by_exit_code_alone(code: int | None, failure: Failure) -> None:
    found = log.classify("steps:  42%|████▏     | 5/12 [01:07<01:33, 13.40s/it, avr_loss=1.07]", code)
    assert found is not None
    assert found[0] is failure
    assert found[1]


# As rich writes it: the source around a frame is quoted.
BOX = """\
╭──────────────────── Traceback (most recent call last) ────────────────────╮
│ /sd-scripts/library/a.py:7 in load                                        │
│                                                                           │
│   4 │   if path is None:                                                  │
│   5 │   │   raise MemoryError("No data found")                            │
│ ❱ 6 │   raise RuntimeError("something new")                               │
╰───────────────────────────────────────────────────────────────────────────╯
RuntimeError: something new
"""
BAR = "steps:  {step}0%|####      | {step}/10 [00:04<00:06,  1.00s/it, avr_loss={loss}]\n"
TRITON = "ModuleNotFoundError: No module named 'triton'\n"
SIGKILL = "subprocess.CalledProcessError: Command '[...]' died with <Signals.SIGKILL: 9>.\n"
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB\n"
TIMED_OUT = "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='huggingface.co', port=443): Read timed out.\n"
RETRY = (
    "'(ReadTimeoutError(\"Read timed out.\"), '(Request ID: 1)')' thrown while requesting HEAD https://huggingface.co\n"
)
WANDB = "wandb: Network error (ConnectionError), entering retry loop.\n"
NO_PORT = "[W socket.cpp:401] [c10d] The server socket has failed to bind (errno: 98 - Address already in use)\n"
NO_CUDA = (
    "UserWarning: CUDA initialization: CUDA unknown error - this may be due to an incorrectly set up environment\n"
)
NO_KERNELS = "Failed to load CPU gemm_4bit_forward from kernels-community: No module named 'kernels'.\n"
NO_TRITON = "A matching Triton is not available.\nError caught was: No module named 'triton'\n"
AT_EXIT = (
    "Exception ignored in: <function _MultiProcessingDataLoaderIter.__del__ at 0x7f>\n"
    "Traceback (most recent call last):\n"
    '  File "/x/dataloader.py", line 1604, in __del__\n    self._shutdown_workers()\n'
    "AssertionError: can only test a child process\n"
)
CHILD = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
CHAIN = "During handling of the above exception, another exception occurred:\n"


@pytest.mark.parametrize(
    ("text", "code", "failure", "reason"),
    [
        (TRITON + BAR.format(step=4, loss=0.1) + BAR.format(step=5, loss="nan"), 1, Failure.NAN, "the loss is nan"),
        (TRITON + BAR.format(step=4, loss=0.1) + SIGKILL, 1, Failure.HOST_OOM, "killed by SIGKILL"),
        (TRITON + SIGKILL, 1, Failure.HOST_OOM, "killed by SIGKILL"),
        (TRITON, -9, Failure.HOST_OOM, "killed by SIGKILL"),
        (TRITON + OUT_OF_MEMORY, 1, Failure.OOM, "torch.OutOfMemoryError"),
        (TRITON + "RuntimeError: something new\n", 1, Failure.UNKNOWN, "RuntimeError: something new"),
        (TRITON + BAR.format(step=4, loss=0.1) + "RuntimeError: new\n", 1, Failure.UNKNOWN, "RuntimeError: new"),
        (TRITON, 1, Failure.BAD_CONFIG, "ModuleNotFoundError"),
        (BOX, 1, Failure.UNKNOWN, "RuntimeError: something new"),
        (OUT_OF_MEMORY + "OSError: [Errno 28] No space left on device\n", 1, Failure.DISK_FULL, "OSError"),
        (
            OUT_OF_MEMORY + AT_EXIT + SIGKILL.replace("died with <Signals.SIGKILL: 9>", "failed"),
            1,
            Failure.OOM,
            "torch.",
        ),
        ("api.py:826] failed (exitcode: -9) local_rank: 0 (pid: 12)\n", 1, Failure.HOST_OOM, "killed by SIGKILL"),
        (
            SIGKILL.replace("died with <Signals.SIGKILL: 9>", "returned non-zero exit status 139"),
            1,
            Failure.CRASHED,
            "killed",
        ),
        (OUT_OF_MEMORY + CHILD, 1, Failure.OOM, "torch.OutOfMemoryError"),
        ("[rank0]: Traceback\n" + BOX + "[rank0]: KeyError: 'x'\n", 1, Failure.BAD_CONFIG, "KeyError: 'x'"),
        ("Could not load library libcudnn_cnn_train.so.8. Error: x\n", -6, Failure.BAD_CONFIG, "Could not load"),
        (OUT_OF_MEMORY + CHAIN + "KeyError: 'x'\n", 1, Failure.OOM, "torch.OutOfMemoryError"),
        ("RuntimeError:\n  \n  the decisive line\n", 1, Failure.UNKNOWN, "RuntimeError: the decisive line"),
        ("first\nsecond\nthird\nfourth\n", 3, Failure.UNKNOWN, "exit code 3; its last lines: second | third | fourth"),
        ("prompt 1/4: a photo\n" + OUT_OF_MEMORY, 1, Failure.OOM, "torch.OutOfMemoryError"),
        (TRITON + "prompt 1/4: a photo\n", 1, Failure.UNKNOWN, "exit code 1"),
        *(
            (warned + "RuntimeError: something new\n", 1, Failure.UNKNOWN, "RuntimeError: something new")
            for warned in (TIMED_OUT, RETRY, WANDB, NO_PORT, NO_CUDA, NO_KERNELS, NO_TRITON)
        ),
        (RETRY + WANDB + NO_PORT, 1, Failure.UNKNOWN, "exit code 1"),
        (BAR.format(step=4, loss=0.1) + WANDB + OUT_OF_MEMORY, 1, Failure.OOM, "torch.OutOfMemoryError"),
        (OUT_OF_MEMORY + TIMED_OUT, 1, Failure.NETWORK, "requests.exceptions.ReadTimeout"),
        (
            "wandb.errors.errors.CommError:\nRun initialization has timed out after 90.0 sec.\n",
            1,
            Failure.NETWORK,
            "wandb.errors.errors.CommError: Run initialization",
        ),
    ],
)
def test_the_last_cause_after_the_first_step_decides(text: str, code: int, failure: Failure, reason: str) -> None:
    found = log.classify(text, code)
    assert found is not None
    assert found[0] is failure
    assert found[1].startswith(reason)


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: GET was unable to find an engine to execute this computation",
        "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
    ],
)
def test_errors_of_cudnn_are_out_of_memory_if_the_gpu_was_full(line: str) -> None:
    assert log.classify(line, 1, gpu_full=True) == (Failure.OOM, line)
    assert log.classify(line, 1) == (Failure.UNKNOWN, line)


def test_an_error_after_the_first_step_is_not_a_bad_config() -> None:
    bar = "steps:  42%|████▏     | 5/12 [01:07<01:33, 13.40s/it, avr_loss=1.07]\n"
    assert log.classify(f"{bar}ValueError: odd", 1) == (Failure.UNKNOWN, "ValueError: odd")
    assert log.classify("ValueError: odd", 1) == (Failure.BAD_CONFIG, "ValueError: odd")


@pytest.mark.parametrize(
    "hostile",
    [
        "steps: 1%||1/2 [1:1<1:1, 1s/it",
        "\n  ",
        'File "a", line 1 ',
        "total optimization steps",
        "\x1b[",
        "Exception ignored in\nTraceback\n x",
        " ",
        "a.",
    ],
)
def test_reading_is_quick_for_any_log(hostile: str) -> None:
    text = (hostile * (256 * 1024 // len(hostile)))[: 256 * 1024]
    start = time.process_time()
    log.classify(text, 1)
    log.read_progress(text)
    log.read_images(text)
    log.total_steps(text)
    assert time.process_time() - start < 2


def test_a_signal_that_torchs_launcher_reports() -> None:
    text = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n  exitcode  : -9 (pid: 1234)\n"
    text += "  traceback : Signal 9 (SIGKILL) received by PID 1234\n"
    assert log.classify(text, 1) == (Failure.HOST_OOM, "killed by SIGKILL")
