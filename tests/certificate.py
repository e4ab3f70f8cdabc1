"""The certificate of tests, for server.test and itself its authority, and what TLS makes of it."""

from __future__ import annotations

import ssl
from pathlib import Path

PEM = Path(__file__).parent / "data" / "server.pem"


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(PEM))
