"""Runs the tests with every other supported Python that is installed: `make test-pythons`.

Each gets an environment of its own in `.venv/pythons`, with the packages of `uv.lock`. A Python
that is not here is named and left out. What follows the command is passed on to pytest.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.11", "3.12", "3.13")


def main(arguments: list[str]) -> int:
    """Test with each; returns 1 if one of them fails."""
    results: dict[str, str] = {}
    for version in VERSIONS:
        if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
            results[version] = "is that of .venv: make test"
            continue
        program = find(version)
        if program is None:
            results[version] = "not installed, left out"
            continue
        print(f"Python {version}", flush=True)
        home = ROOT / ".venv" / "pythons" / version
        environ = os.environ | {"UV_PROJECT_ENVIRONMENT": str(home), "UV_SYSTEM_CERTS": "1"}
        sync = [find_uv_bin(), "sync", "-q", "--frozen", "--extra", "dev", "--python", program]
        subprocess.run(sync, check=True, cwd=ROOT, env=environ)
        tested = subprocess.run(
            [str(home / "bin" / "python"), "-m", "pytest", *arguments], cwd=ROOT
        )
        results[version] = "passed" if tested.returncode == 0 else "failed"
    for version, result in results.items():
        print(f"Python {version}: {result}")
    return 1 if "failed" in results.values() else 0


def find(version: str) -> str | None:
    """A Python of this version: on the PATH, or among those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}")]
    candidates += [str(home / "bin" / "python") for home in sorted(pyenv.glob(f"{version}.*"))]
    return next((each for each in candidates if each and _runs(each)), None)


def _runs(program: str) -> bool:
    return subprocess.run([program, "-V"], capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
