"""How long the README's two commands take from scratch, and what they install from a later index.

Clones the checkout into a new folder for each Python, with an empty environment and an empty home,
so without caches. Measures the time until the page answers, and until the first test passes. With
`--later`, the index offers a future release of every project, and the table lists those that were
installed.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from later_index import LaterIndex  # noqa: E402

PAGE = re.compile(r"Open (http://\S+) and speak")
TEST = re.compile(r"PASSED")
LIMIT_S = 600


def main() -> int:
    """Measure with each Python; returns 1 if a future release was installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", default=["/usr/bin/python3"], help="the Pythons")
    parser.add_argument("--later", action="store_true", help="install against a later index")
    options = parser.parse_args()
    print("| Python | index | seconds to the page | seconds to the first test | future releases |")
    print("|---|---|---|---|---|")
    bad = False
    for python in options.pythons:
        version = subprocess.check_output([python, "-V"], text=True).split()[1]
        figures: list[float] = []
        with LaterIndex() if options.later else nullcontext() as index:
            for target, sign in (("demo ARGS=--port=0", PAGE), ("test ARGS=-v", TEST)):
                figures.append(seconds(python, target, sign, index.url if index else None))
            taken = ", ".join(sorted(index.taken)) or "nothing" if index else "-"
        bad |= taken not in ("-", "nothing")
        day = "later" if options.later else "today's"
        print(f"| {version} | {day} | {figures[0]:.1f} | {figures[1]:.1f} | {taken} |", flush=True)
    return int(bad)


def seconds(python: str, target: str, sign: re.Pattern[str], index: str | None) -> float:
    """Seconds from `make` in a fresh clone to a line of its output, or until the page answers."""
    folder = Path(tempfile.mkdtemp(prefix="fresh-"))
    (folder / "home").mkdir()
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "clone")], check=True)
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder / "home")}
    if index:
        environ |= {"PIP_INDEX_URL": index, "UV_DEFAULT_INDEX": index}
    said: list[str] = []
    start = time.monotonic()
    process = subprocess.Popen(
        ["make", *target.split(" ", 1), f"PYTHON={python}"],
        cwd=folder / "clone",
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        for line in process.stdout or ():
            said.append(line)
            if found := sign.search(line):
                if sign is PAGE:
                    urllib.request.urlopen(found[1], timeout=10).close()
                return time.monotonic() - start
            if time.monotonic() - start > LIMIT_S:
                break
        raise SystemExit(f"make {target} did not end:\n" + "".join(said[-30:]))
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
