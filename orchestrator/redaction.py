"""Removes secrets from texts before they are recorded, and from the environment of child processes."""

import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from urllib.parse import unquote

_NAME = re.compile(
    r"KEY|TOKEN|SECRET|CREDENTIAL|AUTH|COOKIE|DSN|PASS(?!IVE|THR)|BEARER|JWT|SIGNATURE|WEBHOOK|_PWD$|(^|_)PATS?($|_)"
    r"|(DATABASE|DB|REDIS|MONGO\w*|POSTGRES\w*|MYSQL|AMQP|BROKER)_?UR[IL]|CONNECTION_?STRING",
    re.IGNORECASE,
)
"""Names of variables whose values are secrets."""

_SHORTEST = 6
"""Shorter values are no secrets: they would be found in ordinary words."""

_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
"""Colours, other terminal codes, and control characters but tab and line ends."""

_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:\"']*):([^/@\s\"']+)@")
_ADDRESS = re.compile(r"(?<=//)[^/@\s\"']+@")
_KNOWN = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(
        r"(?<![A-Za-z0-9])(?:gh[opsur]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|(?:hf|npm|gsk|r8)_[A-Za-z0-9]{20,}"
        r"|(?:sk|pypi)-[\w-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?:xox[abeoprs]|xapp)-[\w-]{10,}|AIza[\w-]{30,}"
        r"|[rs]k_live_\w{16,}|SG\.[\w-]{16,}\.[\w-]{16,}|ya29\.[\w-]{20,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)"
    ),
    re.compile(r"https://(?:hooks\.slack\.com/services|(?:\w+\.)?discord(?:app)?\.com/api/webhooks)/[^\s\"']+"),
    re.compile(r"(?<=://)[^/@\s:\"']{16,}(?=@)"),
    re.compile(r"(?i)(?<=authorization: )[^\r\n\"']+|(?<=bearer )[\w.~+/=-]{8,}"),
)
"""Formats of well-known secrets."""

_NAMED = re.compile(
    r"""(?i)((?:(?:pass(?:word|wd|phrase)|(?:api|access|account|secret)[_-]?key|token|secret|signature)["']?\s*[=:]\s*"""
    r"""|[?&](?:sig|key)=|--\w*(?:_key|token|password|secret)["']?,?\s+)["']?)(?!\[)[^\s&"',;)\]}]+"""
)
"""A name, as in `token=...`, `"api_key": "..."`, `?sig=...` and `--wandb_api_key ...`, and its value."""

_INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TMP", "TEMP", "TERM"),
    *("PYTHON*", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_*", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("CUDA*", "CUDNN*", "CUBLAS*", "NVIDIA_*", "NCCL_*", "HIP_*", "HSA_*", "ROC*", "TORCH*", "PYTORCH_*", "TRITON_*"),
    *("OMP_*", "MKL_*", "KMP_*", "GOMP_*", "OPENBLAS_*", "NUMEXPR_*", "MALLOC_*", "ORT_*", "TF_*", "TOKENIZERS_*"),
    *(
        "HF_*",
        "HUGGINGFACE_*",
        "HUGGING_FACE_*",
        "TRANSFORMERS_*",
        "DIFFUSERS_*",
        "ACCELERATE_*",
        "XFORMERS_*",
        "BNB_*",
    ),
    *("STANDIN_*", "TORTURE_*"),  # of this project's tests
    *("WANDB_*", "SSL_CERT_*", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "*_proxy", "*_PROXY", "WSL*", "ORCHESTRATE_*"),
)
"""Variables that programs need, with wildcards."""

_ALSO = "ORCHESTRATE_PASS_ENV"
"""A variable with further names, separated by spaces, with wildcards."""


def child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that child processes inherit: those that programs need, and those in ORCHESTRATE_PASS_ENV."""
    patterns = (*_INHERITED, *environ.get(_ALSO, "").split())
    return {name: value for name, value in environ.items() if any(fnmatchcase(name, one) for one in patterns)}


def hide(name: str, value: str) -> str:
    """The value of a variable as it may be recorded: `[HF_TOKEN]` for a secret, an address without its password."""
    return f"[{name}]" if _NAME.search(name) else _replace_known(_ADDRESS.sub("[hidden]@", value))


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text without control codes and secrets.

    The values of variables such as HF_TOKEN, and passwords in addresses, become `[HF_TOKEN]`, the longest first; what
    has the format of a well-known secret becomes `[hidden]`.
    """
    text = _CONTROLS.sub("", text)
    names: dict[str, str] = {}
    for name, value in environ.items():
        for secret in _secrets(name, value):
            if len(secret) >= _SHORTEST:
                names.setdefault(secret, name)
    if names:
        longest_first = sorted(names, key=len, reverse=True)
        found = re.compile("|".join(map(re.escape, longest_first)))
        text = found.sub(lambda match: f"[{names[match[0]]}]", text)
    return _replace_known(text)


def _replace_known(text: str) -> str:
    text = _URL_PASSWORD.sub(lambda match: f"{match[1]}:[hidden]@", text)
    for pattern in _KNOWN:
        text = pattern.sub(lambda match: match[0] if match[0].startswith("[") else "[hidden]", text)
    return _NAMED.sub(r"\1[hidden]", text)


def _secrets(name: str, value: str) -> Iterator[str]:
    """The secrets in a variable: its value, each line of it, the password in an address, a token of a known format."""
    if _NAME.search(name) and not value.startswith("/"):  # SSH_AUTH_SOCK and XAUTHORITY are paths
        yield value
        yield from value.splitlines()
    for match in _URL_PASSWORD.finditer(value):
        yield match[2]
        yield unquote(match[2])
    for pattern in _KNOWN:
        yield from (match[0] for match in pattern.finditer(value))
