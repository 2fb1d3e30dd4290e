"""What lies in a dataset's folder, for tests that it stays as it is."""

import hashlib


def fingerprint(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_mode)
        + ((hashlib.sha256(path.read_bytes()).hexdigest(),) if path.is_file() else ())
        for path in [folder, *folder.rglob("*")]
    }
