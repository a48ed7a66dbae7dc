"""The architecture: arrows point down, the core knows no Pipecat, the top stays small."""

import ast
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

import mistral_service

PACKAGE = Path(mistral_service.__file__).parent
CORE = {"wire", "reply", "conversation", "turn"}
FOLDERS = {
    "wire": set(),
    "conversation": {"wire"},
    "reply": {"wire"},
    "turn": CORE,
    "client": CORE,
    "conformance": {"wire", "turn"},
    "local": {"wire", "conformance"},
    "cli": {"wire", "reply", "conversation", "client", "conformance", "local", "demo"},
    "pipecat": CORE | {"settings", "setting_bounds"},
    "scale": {"wire", "reply", "turn", "settings", "pipecat", "client", "demo", "local"},
    "demo": {"wire", "turn", "settings", "pipecat", "local"},
}
"""Each folder, and the folders and modules of ours that it may import."""

WITH_PIPECAT = {"pipecat", "scale", "demo"}
WITHOUT_PIPECAT = [
    path
    for folder in sorted(FOLDERS.keys() - WITH_PIPECAT)
    for path in sorted((PACKAGE / folder).rglob("*.py"))
]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", WITHOUT_PIPECAT, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_core_knows_no_pipecat(path: Path):
    assert not [name for name in imported(path) if name.split(".")[0] == "pipecat"]


def test_the_wire_can_be_used_where_pipecat_is_not_loaded():
    code = (
        "import sys; import mistral_service.wire.sse, mistral_service.reply.reader; "
        "import mistral_service.conversation.rules, mistral_service.client; "
        "import mistral_service.turn.race; "
        "print('pipecat' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_point_down(folder: str):
    for path in (PACKAGE / folder).rglob("*.py"):
        names = {n for n in imported(path) if n.startswith("mistral_service.")}
        assert not {name.split(".")[1] for name in names} - FOLDERS[folder] - {folder}, path


def modules() -> dict[str, Path]:
    paths = {
        path: path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")
    }
    names = {path: ".".join(place.parts).removesuffix(".__init__") for path, place in paths.items()}
    return {name: path for path, name in names.items()}


def arrows(path: Path, known: Collection[str]) -> set[str]:
    """The modules of ours that a module imports, for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            found |= parts or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(known)


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    left = {name: arrows(path, known) for name, path in known.items()}
    while done := {name for name, imports in left.items() if not imports & left.keys()}:
        left = {name: imports for name, imports in left.items() if name not in done}
    assert left == {}, "these import each other, or what does"


def test_the_top_has_five_modules_at_most():
    assert len([*PACKAGE.glob("*.py")]) <= 5


def test_every_public_name_is_there():
    for name in mistral_service.__all__:
        assert getattr(mistral_service, name)
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = mistral_service.nonesuch
