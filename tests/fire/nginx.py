"""nginx as deploy/nginx.conf has it, before a test's web servers: other addresses, the same directives."""

from __future__ import annotations

import datetime
import os
import signal
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reviewqueue.running.orphans import die_with_parent
from tests.fire.deployment import ROOT, free_port
from tests.servers import MissingPart, _program

SITE = ROOT / "deploy" / "nginx.conf"
NAME = "review.example.org"
# One process, so that a kill leaves nothing behind; everything it writes stays in its folder.
MAIN = """
daemon off;
master_process off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


class Nginx:
    """nginx on a free port of this machine, with a certificate of its own for localhost."""

    def __init__(self, folder: Path, web: Sequence[int]) -> None:
        self.program = _program("nginx", folders=["/usr/sbin", "/usr/local/sbin"])
        if self.program is None:
            raise MissingPart("nginx (apt-get install nginx-light)")
        folder.mkdir()
        self.folder, self.port, self.plain = folder, free_port(), free_port()
        self.child: subprocess.Popen[bytes] | None = None
        certificate(folder)
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
        (folder / "site.conf").write_text(self._site(web))
        self.trusted = ssl.create_default_context(cafile=str(folder / f"{NAME}.pem"))

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def _site(self, web: Sequence[int]) -> str:
        site = SITE.read_text()
        servers = [line for line in site.splitlines() if line.strip().startswith("server 10.")]
        assert len(servers) == len(web), "deploy/nginx.conf names as many web machines as the test has"
        changed = {line.split()[1]: f"127.0.0.1:{port}" for line, port in zip(servers, web, strict=True)}
        changed |= {
            "listen 80;": f"listen 127.0.0.1:{self.plain};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            f"server_name {NAME};": "server_name localhost;",
            "/etc/nginx/tls/": f"{self.folder}/",
        }
        for old, new in changed.items():
            assert old in site, f"deploy/nginx.conf does not say {old!r}"
            site = site.replace(old, new)
        return site

    def command(self, *more: str) -> list[str]:
        return [str(self.program), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), *more]

    def start(self) -> None:
        parent = os.getpid()
        self.child = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
        )  # fmt: skip

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()


def certificate(folder: Path) -> None:
    """A key and a certificate for localhost, good for a day, as the site file names them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / f"{NAME}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{NAME}.key").write_bytes(private)
