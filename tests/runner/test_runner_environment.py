"""What of the environment a runner gets."""

import pytest

from puna import settings

KEPT = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "LC_CTYPE": "C.UTF-8",
    "LD_LIBRARY_PATH": "/opt/cuda",
    "PYTHONPATH": "/src",
    "PUNA_GGML_PATH": "/opt/ggml",
    "OMP_NUM_THREADS": "2",
    "GOMP_SPINCOUNT": "7",
    "GGML_CUDA_FORCE_MMQ": "1",
    "GGML_NO_BACKTRACE": "1",
    "CUDA_VISIBLE_DEVICES": "0",
    "ROCR_VISIBLE_DEVICES": "0",
}
DROPPED = (
    *("PUNA_API_KEYS", "OLLAMA_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PIP_INDEX_URL", "NETRC"),
    *("HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE", "SSH_AUTH_SOCK", "PUNA_CONFIG", "DOCKER_CONFIG"),
    *("GGML_BACKEND_PATH", "GGML_RPC_SERVERS", "GGML_RPC_DEBUG", "LD_PRELOAD", "PYTHONSTARTUP"),
    *("MY_PATH", "PATH2", "PATH\n", "LC_ALL\n", "CUDA_x"),
)


def test_a_runner_gets_what_finds_programs_and_devices_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (KEPT | dict.fromkeys(DROPPED, "secret")).items():
        monkeypatch.setenv(name, value)
    given = settings.runner_environment()
    assert given.items() >= KEPT.items()
    assert not given.keys() & {*DROPPED}
