"""Make the keys of a federation: `python keys.py authority HOST …`, `python keys.py node NAME …`.

They go into the folder `keys`, and nothing there is ever replaced.

    authority   ca.crt, which all machines need, and server.crt, server.key for the server, which is
                reached by these names or addresses. The authority's own key is not kept: for
                another server make another authority.
    node        NAME, the private key of a node, and NAME.pub, which the server registers.
"""

import datetime
import ipaddress
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOLDER, DAYS = Path("keys"), 365


def write(name: str, content: bytes, mode: int = 0o644) -> None:
    """Write a new file, readable by its owner alone if it is secret."""
    FOLDER.mkdir(exist_ok=True)
    handle = os.open(FOLDER / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    print(FOLDER / name)


def secret(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def certificate(subject: str, key, issuer: str, signer, *extensions) -> bytes:
    """Return a certificate as PEM; `extensions` are pairs (extension, whether it is critical)."""
    now = datetime.datetime.now(datetime.UTC)
    named = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, x)]) for x in (subject, issuer)]
    made = (
        x509.CertificateBuilder()
        .subject_name(named[0])
        .issuer_name(named[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
    )
    for extension, is_critical in extensions:
        made = made.add_extension(extension, is_critical)
    return made.sign(signer, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def usage(**allowed: bool) -> tuple:
    """Return what a key may be used for."""
    names = "digital_signature content_commitment key_encipherment data_encipherment key_agreement"
    every = f"{names} key_cert_sign crl_sign encipher_only decipher_only".split()
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in every}), True


def alternative(host: str) -> x509.GeneralName:
    """Return a host's name, or its address, as a certificate has it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def authority(hosts: list[str]) -> None:
    """Make an authority, and the certificate of the server that has these names."""
    root, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    # The server talks to its own processes, too.
    hosts = [*dict.fromkeys([*hosts, "localhost", "127.0.0.1"])]
    ca = (x509.BasicConstraints(ca=True, path_length=0), True), usage(key_cert_sign=True)
    names = x509.SubjectAlternativeName([alternative(host) for host in hosts]), False
    server_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False
    leaf = (x509.BasicConstraints(ca=False, path_length=None), True), usage(digital_signature=True)
    issuer = f"authority of {hosts[0]}"
    write("ca.crt", certificate(issuer, root, issuer, root, *ca))
    signed = certificate(hosts[0], server, issuer, root, *leaf, names, server_only)
    write("server.crt", signed)
    write("server.key", secret(server, serialization.PrivateFormat.PKCS8), 0o600)


def node(names: list[str]) -> None:
    """Make the keys of nodes."""
    for name in names:
        key = ec.generate_private_key(ec.SECP384R1())
        write(name, secret(key, serialization.PrivateFormat.OpenSSH), 0o600)
        public = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        write(f"{name}.pub", key.public_key().public_bytes(*public) + b"\n")


if __name__ == "__main__":
    what, *names = sys.argv[1:] or [""]
    if what not in ("authority", "node") or not names:
        sys.exit(__doc__)
    {"authority": authority, "node": node}[what](names)
