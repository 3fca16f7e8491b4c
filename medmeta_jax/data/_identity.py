"""Who a patient is, told apart and not told: salted hashes of identifiers.

The salt is the environment variable MEDMETA_SALT; else a random one, made once and kept in the
user's data folder. It is no option of a source, since options are written into manifests. The same
salt gives the same groups, on any machine.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import tempfile
from pathlib import Path

from medmeta_jax.data.samples import DataError

SALT = "MEDMETA_SALT"


def hashed(identifier: str, digits: int = 16) -> str:
    """An identifier that can no longer be read, the same for the same one."""
    salt = os.environ.get(SALT) or kept_salt()
    return hashlib.blake2b(f"{salt}\0{identifier}".encode(), digest_size=16).hexdigest()[:digits]


def kept_salt() -> str:
    """The user's own salt, made where there is none (DataError)."""
    import platformdirs

    return salt_of(Path(platformdirs.user_data_dir("medmeta_jax")) / "salt")


@functools.cache
def salt_of(path: Path) -> str:
    """The salt that a file holds, made where there is none. Raises DataError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            handle, partial = tempfile.mkstemp(dir=path.parent)  # readable by the user alone
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(16))
            # A link never overwrites: of two processes at once, both get the first one's.
            try:
                Path(path).hardlink_to(partial)
            except FileExistsError:
                pass
            finally:
                Path(partial).unlink()
        salt = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: the salt of patients' hashes cannot be kept ({error}); set {SALT}"
        ) from None
    if len(salt) < 16:
        raise DataError(f"{path}: holds no salt; remove it, or set {SALT}")
    return salt
