"""A certificate for the TLS scenarios, made with the openssl command for one run.

Rules of this file: P-256, because that is what public authorities give out by default now and what makes
the handshake, which is not the subject, cheap; PKCS #8, because some peers read nothing else.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from perf.load import LoadError
from perf.programs import lacking


def make(folder: Path) -> tuple[Path, Path]:
    """The paths of certificate and key; made at the first call for this folder."""
    cert, key = folder / "tls.pem", folder / "tls.key"
    if cert.exists():
        return cert, key
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError:
        raise LoadError(lacking("openssl") or "openssl cannot be run") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise LoadError(f"openssl made no certificate; its last words: {said[0]}") from None
    return cert, key
