"""The installation decides nothing: `uv.lock` does, on any day. A failure says what to do.

Each of these runs the Makefile of a copy of the checkout, with no environment and an empty home.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import pytest
from later_index import LATER, REAL, LaterIndex
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
CLIENTS = ROOT / "tests" / "environments" / "clients"
CLIENTS_LOCK = tomllib.loads((CLIENTS / "uv.lock").read_text())
MADE = (
    ".git",
    ".venv*",
    ".uv*",
    "node_modules",
    "artifacts",
    "site",
    "dist",
    ".*_cache",
    "__pycache__",
)

spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
assert spec is not None
assert spec.loader is not None
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)


@pytest.fixture(scope="session")
def index() -> Iterator[LaterIndex]:
    """An index of a later day; skipped where the real one, whose pages it has, is out of reach."""
    try:
        urllib.request.urlopen(
            f"{REAL}/uv/", timeout=30, context=ssl.create_default_context()
        ).close()
    except (OSError, urllib.error.URLError) as e:
        pytest.skip(f"the package index cannot be reached: {e}")
    with LaterIndex() as index:
        yield index


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout without anything that a target has made."""
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=shutil.ignore_patterns(*MADE))
    (tmp_path / "home").mkdir()
    return tmp_path / "checkout"


def make(checkout: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run make as on a fresh machine, with this Python, which has pip but no packages of ours."""
    python = f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    trust = {k: os.environ[k] for k in ("SSL_CERT_FILE", "PIP_CERT") if k in os.environ}
    base = {"PATH": "/usr/bin:/bin", "HOME": str(checkout.parent / "home"), "PYTHON": python}
    return subprocess.run(
        ["make", "-C", str(checkout), *arguments],
        env=base | trust | environ,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_nothing_of_a_later_day_is_installed(checkout: Path, index: LaterIndex):
    index.taken.clear()
    cache = subprocess.check_output([find_uv_bin(), "cache", "dir"], text=True).strip()
    environment = {
        "PIP_INDEX_URL": index.url,
        "UV_DEFAULT_INDEX": index.url,
        "UV_INSECURE_HOST": "127.0.0.1",
        "UV_CACHE_DIR": cache,
    }
    sizes: list[int] = []
    for target, arguments, expected in (
        ("demo", "ARGS=--help", "A spoken conversation"),
        ("test-fast", "ARGS=--version", "pytest 9"),
    ):
        ran = make(checkout, target, arguments, **environment)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert expected in ran.stdout
        assert index.taken == set()
        assert index.asked <= {"uv"}  # pip looks up the address of the one wheel whose hash it has
        installed = list((checkout / ".venv").glob("lib/python*/site-packages/*.dist-info"))
        sizes.append(len(installed))
        assert named(installed) <= locked(LOCK)
    assert 100 < sizes[0] < sizes[1]
    beside = list((checkout / ".venvs" / "clients").glob("lib/python*/site-packages/*.dist-info"))
    assert len(beside) > 80
    assert named(beside) <= locked(CLIENTS_LOCK)


def named(installed: list[Path]) -> set[tuple[str, str]]:
    """What is installed, by name and version."""
    parts = [info.name.removesuffix(".dist-info").rpartition("-") for info in installed]
    return {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, _, version in parts}


def locked(lock: dict[str, Any]) -> set[tuple[str, str]]:
    """What a lock holds, by name and version."""
    return {(package["name"], package["version"]) for package in lock["package"]}


def test_the_index_does_offer_what_a_resolver_takes(index: LaterIndex, tmp_path: Path):
    """What the test above would miss without: an installation that resolves takes the future."""
    pip = [find_uv_bin(), "pip", "install", "--python", sys.executable, "--target", "site"]
    index.taken.clear()
    resolve = [*pip, "--no-config", "--no-cache", "--default-index", index.url, "idna"]
    subprocess.run(resolve, check=True, cwd=tmp_path, env={"PATH": "", "UV_SYSTEM_CERTS": "1"})
    assert index.taken == {"idna"}
    assert (tmp_path / "site" / f"idna-{LATER}.dist-info").exists()


def test_the_lock_agrees_with_the_project():
    check = [find_uv_bin(), "lock", "--check", "--offline", "--project", str(ROOT)]
    ran = subprocess.run(check, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_everything_in_the_lock_is_a_wheel_with_a_hash():
    for package in LOCK["package"]:
        if "registry" not in package["source"]:
            assert package["name"] == "pipecat-mistral-service"
            continue
        assert package["wheels"], package["name"]
        assert all(wheel["hash"].startswith("sha256:") for wheel in package["wheels"])
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["no-build"] is True


ENVIRONMENTS = sorted(path.parent for path in ROOT.glob("tests/environments/*/pyproject.toml"))


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.name)
def test_an_environment_of_its_own_is_locked_as_well(environment: Path):
    check = [find_uv_bin(), "lock", "--check", "--offline", "--project", str(environment)]
    ran = subprocess.run(check, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    project = tomllib.loads((environment / "pyproject.toml").read_text())
    assert project["tool"]["uv"]["no-build"] is True
    for package in tomllib.loads((environment / "uv.lock").read_text())["package"]:
        if package["name"] == project["project"]["name"]:
            continue
        assert package["wheels"], package["name"]
        assert all(wheel["hash"].startswith("sha256:") for wheel in package["wheels"])


PYTHONS = [(3, 11), (3, 12), (3, 13)]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_that_is_promised_has_its_wheels(python: tuple[int, int]):
    assert wanted_wheels(ROOT, python, "--extra", "dev") > 200


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.name)
def test_an_environment_of_its_own_has_them_too(environment: Path, python: tuple[int, int]):
    assert wanted_wheels(environment, python) > 0


def wanted_wheels(project: Path, python: tuple[int, int], *options: str) -> int:
    """Hold a lock for Linux on x86-64 with Debian 12's glibc, 2.36, or a later one.

    Returns:
        How many packages are wanted there, each of which has a wheel.
    """
    everything = [find_uv_bin(), "export", "-q", "--frozen", *options, "--no-emit-project"]
    listed = subprocess.check_output(
        [*everything, "--no-hashes", "--project", str(project)], text=True, cwd=project
    )
    version = ".".join(map(str, python))
    here = {"python_version": version, "python_full_version": f"{version}.0"}
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    tags = {
        *cpython_tags(python, platforms=platforms),
        *compatible_tags(python, platforms=platforms),
    }
    locked = tomllib.loads((project / "uv.lock").read_text())["package"]
    wheels = {
        (package["name"], package["version"]): [
            parse_wheel_filename(wheel["url"].rpartition("/")[2])[3] for wheel in package["wheels"]
        ]
        for package in locked
        if "wheels" in package
    }
    wanted = [Requirement(line) for line in listed.splitlines() if line[:1].isalnum()]
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate(here)]
    for each in wanted:
        [exact] = each.specifier
        assert any(tags & offered for offered in wheels[each.name, exact.version]), each
    return len(wanted)


def test_no_target_installs_beside_the_lock():
    """One place installs Python packages, and it takes the lock as it is."""
    recipes = [ROOT / "Makefile", ROOT / ".ci" / "run", *(ROOT / ".github").rglob("*.y*ml")]
    for recipe in recipes:
        assert not re.search(r"\b(pip|uv pip|pipx|uv add) install\b", recipe.read_text()), recipe
    assert not list(ROOT.glob("requirements*"))
    source = (ROOT / "scripts" / "install.py").read_text()
    assert source.count('"install"') == 2  # pip's, by hash, and apt's
    assert '"--require-hashes"' in source
    assert '"sync", "--frozen"' in source


# --- what can go wrong --------------------------------------------------------------------------


def one_sentence(ran: subprocess.CompletedProcess[str], *words: str) -> None:
    """It failed, and the last line before make's own says why and what to do."""
    assert ran.returncode != 0
    [last] = [line for line in ran.stderr.splitlines() if not line.startswith("make")][-1:]
    for word in words:
        assert word in last, ran.stdout + ran.stderr


def test_no_python_is_told(checkout: Path):
    one_sentence(make(checkout, "demo", "PYTHON="), "Python 3.11 or later is needed: install it")


def test_an_old_python_is_told(checkout: Path):
    old = checkout.parent / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")  # as sys.version_info < (3, 11) has it
    old.chmod(0o755)
    one_sentence(
        make(checkout, "demo", f"PYTHON={old}"),
        f"is needed, but {old} is older or does not run",
        "make PYTHON",
    )


@pytest.fixture
def with_uv(checkout: Path) -> Path:
    """The checkout after uv has come, by a link: the trouble is met by uv, not by pip."""
    (checkout / ".uv" / "bin").mkdir(parents=True)
    (checkout / ".uv" / "bin" / "uv").symlink_to(find_uv_bin())
    return checkout


def test_no_network_is_told_by_pip_and_by_uv(checkout: Path, request: pytest.FixtureRequest):
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}
    one_sentence(make(checkout, "demo", **nowhere), "cannot be reached", "same command again")
    request.getfixturevalue("with_uv")
    one_sentence(make(checkout, "demo", **nowhere), "cannot be reached", "same command again")


def test_a_proxy_that_opens_tls_is_told_by_pip_and_by_uv(
    checkout: Path, opening_proxy: str, request: pytest.FixtureRequest
):
    proxy = {"HTTPS_PROXY": opening_proxy, "PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}
    one_sentence(make(checkout, "demo", **proxy), "certificate", "SSL_CERT_FILE")
    request.getfixturevalue("with_uv")
    one_sentence(make(checkout, "demo", **proxy), "certificate", "SSL_CERT_FILE")


@pytest.fixture
def opening_proxy(tmp_path: Path) -> Iterator[str]:
    """A proxy that answers every CONNECT with a certificate that no program trusts."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(_untrusted(tmp_path))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            while b"\r\n\r\n" not in connection.recv(65536):
                pass
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with contextlib.suppress(OSError):  # the client hangs up, as it should
                tls.wrap_socket(connection, server_side=True).close()

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _untrusted(folder: Path) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a proxy")])
    hosts = [x509.DNSName(host) for host in ("pypi.org", "files.pythonhosted.org")]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "proxy.pem"
    pem = serialization.Encoding.PEM
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return file


def test_a_file_with_another_hash_is_refused(with_uv: Path):
    lock = with_uv / "uv.lock"
    text, changed = re.subn(
        r'(/idna-[^"]*\.whl", hash = "sha256:)[0-9a-f]{64}', rf"\g<1>{'0' * 64}", lock.read_text()
    )
    assert changed == 1
    lock.write_text(text)
    cache = subprocess.check_output([find_uv_bin(), "cache", "dir"], text=True).strip()
    ran = make(with_uv, "demo", "ARGS=--help", UV_CACHE_DIR=cache)
    one_sentence(ran, "not the one in uv.lock")


# What a full disk makes uv and pip say (a tmpfs of 200 MB), and npm and apt of the others.
SAID = {
    "failed to write to file `/small/.cache/uv/.tmpQ/iso639-3.json`: No space left on device (os "
    "error 28)": "The disk is full",
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device": (
        "The disk is full"
    ),
    "npm error code SELF_SIGNED_CERT_IN_CHAIN": "The certificate",
    "npm error code ENOTFOUND": "cannot be reached",
    "Err:1 http://deb.debian.org/debian bookworm InRelease\n  Temporary failure resolving": (
        "cannot be reached"
    ),
    "/usr/bin/python3: No module named pip": "has no pip",
}


@pytest.mark.parametrize("said", SAID)
def test_what_an_installer_says_becomes_one_sentence(said: str):
    told = install.reason(said)
    assert told is not None
    assert SAID[said] in told


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make the PATH hold these programs and no others."""

    def make(**scripts: str) -> Path:
        folder = tmp_path / "programs"
        folder.mkdir()
        for name, text in scripts.items():
            program = folder / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        (folder / "env").symlink_to("/usr/bin/env")
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return make


def test_apt_without_root_is_told(programs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    programs(apt_get="exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        install.Failed, match="apt needs root to install it: as root, install the pac"
    ):
        install.system("Chromium", "chromium", ("chromium",))


def test_a_system_without_apt_is_told(programs: Callable[..., Path]):
    programs()
    with pytest.raises(
        install.Failed, match="no apt here to install it: install the package redis"
    ):
        install.system("Redis", "redis-server", ("redis-server",))


def test_what_apt_cannot_do_is_told(
    programs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    programs(apt_get="echo 'E: Temporary failure resolving'; exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(install.Failed, match=r"apt could not install Redis.*cannot be reached"):
        install.system("Redis", "redis-server", ("redis-server",))
    assert "E: Temporary" in capsys.readouterr().err


def test_a_browser_that_apt_does_not_have_may_come_from_elsewhere(
    programs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    folder = programs(apt_get="echo 'E: Unable to locate package firefox-esr'; exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    package, names = install.BROWSERS["Firefox"]
    with pytest.raises(install.Failed) as told:
        install.system("Firefox", package, names)
    for words in ("apt could not install Firefox", "once firefox is on the PATH", "make test-fast"):
        assert words in str(told.value)
    (folder / "firefox").symlink_to("/bin/true")
    install.system("Firefox", package, names)  # and apt is not asked


# What sudo says where it would have to ask, in the words of its versions.
SUDO_SAID = (
    "sudo: a password is required",
    "sudo: a terminal is required to read the password; either use the -S option",
    "sudo: interactive authentication is required (a password is required)",
    "Sorry, user me is not allowed to execute '/usr/bin/env' as root.\nsudo: not allowed",
)


@pytest.mark.parametrize("said", SUDO_SAID)
def test_a_sudo_that_wants_a_password_is_not_asked(
    programs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, said: str
):
    """This sudo waits for ever, as a real one does, unless it may not ask."""
    folder = programs(
        apt_get="exit 0",
        sudo=f'test "$1" = -n || exec /bin/sleep 600\necho "{said}" >&2; exit 1',
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(install.Failed) as told:
        install.system("Redis", "redis-server", ("redis-server",))
    for words in ("Redis", "redis-server", "sudo wants a password", "SKIP_SYSTEM=1"):
        assert words in str(told.value)
    assert "\n" not in str(told.value)
    (folder / "sudo").unlink()


def test_what_goes_through_sudo_is_said_first_and_asks_nothing(
    programs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    log = tmp_path / "log"
    programs(
        sudo=f'test "$1" = -n && shift && echo sudo >> {log} && exec "$@"',
        apt_get=f'echo "$DEBIAN_FRONTEND $*" >> {log}; cat >> {log}; exit 0',
    )
    (tmp_path / "programs" / "cat").symlink_to("/bin/cat")  # ends only where there is no input
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    install.system("Chromium", "chromium", ("chromium",))
    said = capsys.readouterr().out
    assert "Installing Chromium with sudo apt-get (the system's package chromium;" in said
    assert "SKIP_SYSTEM=1 leaves it out" in said
    ran = log.read_text().splitlines()
    assert ran.count("sudo") == 2
    for line in ran:
        assert line == "sudo" or line.startswith("noninteractive -q -y -o ")
    assert "--force-confold" in ran[-1]
    assert ran[-1].endswith("install --no-install-recommends chromium")


def test_what_comes_from_the_system_can_be_left_out(
    programs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    programs(apt_get="exit 1", sudo="exit 1")
    monkeypatch.setenv("SKIP_SYSTEM", "1")
    install.system("Redis", "redis-server", ("redis-server",))
    assert "Redis is missing, and left out (SKIP_SYSTEM)" in capsys.readouterr().out


def test_make_says_what_it_takes_from_the_system_and_how_not_to(checkout: Path):
    said = make(checkout, "help").stdout
    assert "comes from apt (with sudo); SKIP_SYSTEM=1 leaves it out" in said


def test_what_is_under_the_gpl_is_said_where_it_is_installed():
    page = (ROOT / "docs" / "licences.md").read_text()
    for extra in ("demo", "dev"):
        exported = subprocess.check_output(
            [find_uv_bin(), "export", "-q", "--frozen", "--extra", extra, "--no-emit-project"]
            + ["--no-hashes", "--project", str(ROOT)],
            text=True,
            cwd=ROOT,
        )
        for line in exported.splitlines():
            if not line[:1].isalnum():
                continue
            name = Requirement(line).name
            try:
                told = metadata(name)
            except PackageNotFoundError:
                continue
            licence = told.get("License-Expression") or (told.get("License") or "").split("\n")[0]
            if re.search(r"(?<![LA])GPL", licence):
                assert name in install.COPYLEFT[extra], name
                assert f"`{name}`" in page, name


def test_a_recent_uv_on_the_path_is_used_and_an_old_one_is_not(programs: Callable[..., Path]):
    folder = programs(uv="echo uv 99.1.0")
    assert install.uv() == str(folder / "uv")
    (folder / "uv").write_text("#!/bin/sh\necho uv 0.4.2\n")
    assert install.version(str(folder / "uv")) == (0, 4, 2)
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["required-version"]
    assert install.numbers(least) > (0, 4, 2)


@pytest.mark.parametrize("left", ["half a uv", "half an environment"])
def test_a_second_run_goes_on_where_the_first_stopped(checkout: Path, left: str):
    if left == "half a uv":
        (checkout / ".uv" / "bin").mkdir(parents=True)
        (checkout / ".uv" / "bin" / "uv").write_bytes(b"")
    else:
        (checkout / ".venv" / "lib").mkdir(parents=True)
        (checkout / ".venv" / "lib" / "file").write_text("half")
    cache = subprocess.check_output([find_uv_bin(), "cache", "dir"], text=True).strip()
    ran = make(checkout, "demo", "ARGS=--help", UV_CACHE_DIR=cache)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_vllm_says_where_it_cannot_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(install.platform, "machine", lambda: "aarch64")
    with pytest.raises(install.Failed, match=r"on Linux on x86-64 only, and this is .* on aarch64"):
        install.vllm()
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "VLLM_BYTES", 10**18)
    with pytest.raises(install.Failed, match=r"takes 1000000000 GB of the disk, and .* free"):
        install.vllm()


def test_vllm_takes_a_python_that_it_has_wheels_for(
    programs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    assert install.vllms_python() == sys.executable
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    folder = programs(**{"python3.11": "exit 127", "python3.12": "exit 0"})
    assert install.vllms_python() == str(folder / "python3.12")
    (folder / "python3.12").unlink()
    with pytest.raises(install.Failed, match=r"3\.11, 3\.12 or 3\.13, and this is 3\.14: install"):
        install.vllms_python()
