"""Certificates for one test session, made by openssl: an authority, a server, a stranger."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: its certificate (to trust) and its key (to sign with)."""

    certificate: Path
    key: Path


def make_authority(folder: Path, name: str) -> Authority:
    """Create a self-signed authority."""
    authority = Authority(folder / f"{name}.pem", folder / f"{name}.key")
    _request(
        authority.certificate,
        authority.key,
        f"/CN={name}",
        ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"],
    )
    return authority


def make_server_certificate(folder: Path, authority: Authority, host: str) -> tuple[str, str]:
    """Return certificate and key (PKCS 8), as PEM, of a server that is called `host`."""
    certificate, key = folder / "server.pem", folder / "server.key"
    signing = ["-CA", str(authority.certificate), "-CAkey", str(authority.key)]
    extensions = [f"subjectAltName=DNS:{host}", "basicConstraints=CA:FALSE"]
    _request(certificate, key, f"/CN={host}", extensions, signing)
    return certificate.read_text(), key.read_text()


def _request(
    certificate: Path,
    key: Path,
    subject: str,
    extensions: list[str],
    signing: list[str] | None = None,
) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
    command += ["-subj", subject, "-out", str(certificate), "-keyout", str(key), *(signing or [])]
    for extension in extensions:
        command += ["-addext", extension]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl: {done.stderr}"
