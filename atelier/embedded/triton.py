"""One Triton for each device, from the wheel of nvidia-pytriton (tritonserver 2.51, CPU).

The wheel brings the server and its Python backend only. Our model repository asks for the backend
`onnxruntime`, which NVIDIA's container has in C++; here it is a Python-based backend that comes
with the repository (triton_repo/backends/onnxruntime/model.py): the same repository loads in both.

Triton starts the stub of a Python-based model through `bash -c` and quotes nothing: a space in the
path of the backends or of the repository would end every load in a timeout. So both are named
relative to the Triton's own folder, in which `models` is a link to the repository.

Triton's shared-memory and repository protocols let a caller read its host's memory and files: it
listens on loopback only, without HTTP, and those protocols need a key drawn for this stack. The key
guards against whoever can connect but cannot see our processes: a container in the same network
namespace, a forwarded port. It does not guard against other users of this machine, who read it from
the command line (`ps`) unless /proc is mounted with hidepid: Triton takes it in no other way. Nor
does anything guard inference itself. Do not run the embedded stack beside users you do not trust.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from atelier.embedded.part import Command, NotReadyError, Part, PartError, minimal_environment

ADMIN_PROTOCOLS = (
    "shared-memory", "model-repository", "model-config", "statistics", "trace", "logging",
)  # fmt: skip
BACKENDS, MODELS = "backends", "models"  # relative, see above
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - not a file of ours: the kernel's shared memory


@dataclass
class Triton(Part):
    """The Triton of one device. Every model is loaded and unloaded by the agent."""

    index: int
    folder: Path  # its own: two Tritons do not share backends
    repository: Path
    port: int
    admin_key: str
    threads: int  # of a model's run

    def __post_init__(self) -> None:
        self.name = f"triton-{self.index}"
        self.address = f"127.0.0.1:{self.port}"
        self.pid_file = self.folder / "pid"

    def prepare(self) -> None:
        """Put the backends together, and sweep the shared memory of a Triton that was killed."""
        wheel = _wheel()
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = wheel / "python_backend_stubs" / python / "triton_python_backend_stub"
        if not stub.exists():
            raise PartError(f"Triton's Python backend has no stub for Python {python}")
        if problem := missing_libpython():
            raise PartError(problem)
        self.folder.mkdir(parents=True, exist_ok=True)
        models = self.folder / MODELS
        models.unlink(missing_ok=True)
        models.symlink_to(self.repository.absolute())
        shutil.rmtree(self._backends, ignore_errors=True)
        shutil.copytree(wheel / "backends" / "python", self._backends / "python")
        shutil.copy(stub, self._backends / "python")
        for backend in (self.repository / "backends").iterdir():
            if (backend / "model.py").exists():
                shutil.copytree(backend, self._backends / backend.name)
        for region in SHARED_MEMORY.glob(f"{self._shared_memory_prefix}*"):
            with suppress(OSError):
                region.unlink()

    def command(self) -> Command:
        wheel = _wheel()
        options = {
            "model-repository": MODELS,
            "model-control-mode": "explicit",
            "backend-directory": BACKENDS,
            "backend-config": f"python,shm-region-prefix-name={self._shared_memory_prefix}",
            "grpc-address": "127.0.0.1",
            "grpc-port": self.port,
            "grpc-restricted-protocol": f"{','.join(ADMIN_PROTOCOLS)}:admin-key={self.admin_key}",
            "allow-http": "false",
            "allow-metrics": "false",
            "exit-timeout-secs": 5,
            "log-format": "ISO8601",
        }
        argv = [str(wheel / "bin" / "tritonserver")]
        argv += [f"--{name}={value}" for name, value in options.items()]
        argv += ["--disable-auto-complete-config"]  # ours are complete; a load is 1.3 s shorter
        libraries = (wheel.parents[1] / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
        environment = minimal_environment(
            LD_LIBRARY_PATH=os.pathsep.join(map(str, libraries)),
            # The stub's Python finds its packages by the `python3` that is first on PATH.
            PATH=os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", ""))),
            PYTHONDONTWRITEBYTECODE="1",
            OMP_NUM_THREADS=str(self.threads),
            OPENBLAS_NUM_THREADS="1",
            ATELIER_ORT_THREADS=str(self.threads),
        )
        return Command(tuple(argv), self.folder, environment)

    def probe(self) -> None:
        with grpc.insecure_channel(self.address) as channel:
            triton = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                answer = triton.ServerReady(service_pb2.ServerReadyRequest(), timeout=2.0)
            except grpc.RpcError as error:
                raise NotReadyError(f"no answer at {self.address}: {error.details()}") from error
        if not answer.ready:
            raise NotReadyError(f"Triton at {self.address} is not ready")

    @property
    def _backends(self) -> Path:
        return self.folder / BACKENDS

    @property
    def _shared_memory_prefix(self) -> str:
        return f"atelier-{self.port}-"


def missing_libpython() -> str | None:
    """Triton's stub is linked against libpython, which Debian packs apart from Python."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    for candidate in (Path(sysconfig.get_config_var("LIBDIR") or "") / name, name):
        with suppress(OSError):
            ctypes.CDLL(str(candidate))
            return None
    package = name.removesuffix(".so.1.0")
    return (
        f"{name} is missing, which Triton's Python backend needs: `apt install {package}` on Debian"
        " and Ubuntu, or a Python built with --enable-shared"
    )


def _wheel() -> Path:
    """Where the wheel has its Triton. Found without importing it, which takes seconds."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise PartError("Triton is not installed: pip install 'atelier-serving[embedded]'")
    return Path(spec.origin).parent / "tritonserver"
