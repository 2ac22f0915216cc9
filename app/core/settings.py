"""Where a service runs: every setting is an environment variable `TRIGGERLENS_<NAME>`. (How a scan is done is config.)

The defaults are the embedded service: SQLite, a folder for blobs, no broker, loopback, everything below `data_dir`.
"""

import os
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.signing import signer_at

if TYPE_CHECKING:  # cryptography is only needed where something is signed
    from securesystemslib.signer import CryptoSigner

GB = 10**9


class Settings(BaseSettings):
    """Deployment, not science; durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="TRIGGERLENS_", frozen=True)

    data_dir: Path = Path("triggerlens-data")
    host: str = "127.0.0.1"
    port: int = 8360
    allowed_hosts: tuple[str, ...] = ()  # names a browser may call this service by, beside loopback
    database_url: SecretStr | None = None  # postgresql+psycopg://...; default: SQLite below data_dir
    storage_url: str | None = None  # s3://bucket/prefix; default: a folder below data_dir
    storage_endpoint: str | None = None  # of an S3 server that is not Amazon's
    storage_key_id: str | None = None
    storage_secret: SecretStr | None = None
    storage_region: str = "us-east-1"
    broker_url: SecretStr | None = None  # redis://...; default: no broker, a runner beside the API

    max_model_bytes: int = 2 * GB
    max_bundle_bytes: int = 1 * GB
    max_disk_bytes: int = 50 * GB  # of all blobs together
    retention_days: float | None = None  # finished scans and unused artifacts are deleted after it; default: kept
    upload_idle_seconds: float = 60.0  # an upload that sends nothing for so long is ended

    compute_queue: Literal["cpu", "gpu"] = "cpu"  # where jobs that run torch are rung for
    device: Literal["auto", "cpu", "cuda"] = "auto"  # what this machine's engines compute on
    sandbox: Literal["auto", "bwrap", "none"] = "auto"  # around engines; auto: bubblewrap where it works
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)  # of what runs alone; part of the numbers
    lanes: int | None = Field(default=None, ge=1)  # engines side by side where no broker is; default: one for each core
    perceptual: str | None = None  # LPIPS backbone weights on this machine; default: the usual order
    signing_key: Path | None = None  # Ed25519 in PEM: signs what is stated of repaired weights; default: unsigned
    lease_seconds: float = 60.0
    heartbeat_seconds: float = 10.0
    sweep_seconds: float = 15.0
    poll_seconds: float = 1.0  # how often cancel is looked for, and work where nobody rings
    stall_seconds: float = 900.0  # an engine that reports nothing for so long is ended
    job_seconds: float = 24 * 3600.0  # and one that works for so long on one job, whatever it reports

    @cached_property
    def database(self) -> str:
        """The SQLAlchemy URL of the database."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.resolve() / 'triggerlens.sqlite3'}"

    @cached_property
    def broker(self) -> str | None:
        """The URL of the broker, if there is one."""
        return self.broker_url.get_secret_value() if self.broker_url else None

    def signer(self) -> "CryptoSigner | None":
        """Whose statements lie beside repaired weights; raises Refusal for a key that cannot be used."""
        return signer_at(self.signing_key)

    @cached_property
    def scratch(self) -> Path:
        """Where runners keep job directories while they work on them."""
        return self.data_dir.resolve() / "scratch"

    @cached_property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service; it then needs no API key."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False
