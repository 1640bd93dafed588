"""What a decoding process may know and reach: its environment variables, and the network.

A file may exploit a decoder, which is written in C. The process that decodes has no keys of the
service or of Ray, and none of a storage either if it reads no URIs; then it has no network, where
the system allows that.
"""

import ctypes
import os
from collections.abc import Mapping

# Kept for every process, by the beginning of the name.
_NEEDED = (
    *("PATH", "HOME", "TMP", "TEMP", "LANG", "LC_", "TZ", "PYTHON", "VIRTUAL_ENV", "LD_", "DYLD_"),
    *("OMP_", "MKL_", "OPENBLAS_", "COVERAGE"),
)
# Credentials and addresses of storages and proxies, for a process that reads URIs.
_STORAGE = (
    *("AWS_", "GOOGLE_", "GCS_", "GCE_", "AZURE_", "OSS_", "HADOOP_", "JAVA_HOME", "CLASSPATH", "ARROW_"),
    *("FSSPEC_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "KUBERNETES_", "HF_"),
)
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS = 38


def environment(*, reads_uris: bool) -> dict[str, str]:
    """Return the variables of this process that a decoding process gets."""
    kept = _NEEDED + (_STORAGE if reads_uris else ())
    return _starting_with(os.environ, kept)


def _starting_with(variables: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(prefixes)}


def leave_network() -> bool:
    """Move this process, which must have one thread, to a network of its own without any interface.

    Returns whether that worked: it does on Linux for root, and for others where unprivileged user
    namespaces are allowed. In any case the process cannot gain privileges from then on.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return any(libc.unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))
    except (OSError, AttributeError):  # no such calls, as on macOS
        return False
