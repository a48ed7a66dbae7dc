"""axe-core, which judges the accessibility of a page: at two widths, light and dark."""

import shutil
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Page

AXE = Path(__file__).parents[1] / "demo" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
VIEWPORTS = ((1200, 760), (360, 740))
SCHEMES = ("light", "dark")

needs_npm = pytest.mark.skipif(
    shutil.which("npm") is None, reason="axe-core comes from npm, which is not installed"
)

# What moves is judged where it comes to rest.
RUN = """async () => {
  for (const animation of document.getAnimations()) {
    if (animation.effect.getComputedTiming().endTime !== Infinity) animation.finish();
  }
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id} (${help}): ${target} ${failureSummary}`));
}"""


@cache
def axe() -> str:
    assert AXE.exists(), "axe-core is not installed: run the tests with `make test`"
    return AXE.read_text()


def violations(page: Page) -> list[str]:
    """What axe-core finds on a page as it is now: what, where, and how to mend it."""
    page.evaluate(axe())
    found: list[str] = []
    size = page.viewport_size
    for width, height in VIEWPORTS:
        page.set_viewport_size({"width": width, "height": height})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            found += [f"{width} px, {scheme}: {each}" for each in page.evaluate(RUN)]
    page.emulate_media(color_scheme=None)
    if size:
        page.set_viewport_size(size)
    return found
