// Tabs as the ARIA practices have them: one is in the tab order, the arrow keys go through them.

/** Makes tabs of the buttons in `list`; each one's `aria-controls` names what it shows. */
export function makeTabs(list) {
  const tabs = [...list.querySelectorAll('[role="tab"]')];

  function select(tab, focus) {
    for (const each of tabs) {
      const chosen = each === tab;
      each.setAttribute("aria-selected", chosen);
      each.tabIndex = chosen ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
  }

  list.addEventListener("click", ({ target }) => {
    const tab = target.closest('[role="tab"]');
    if (tab) select(tab);
  });
  list.addEventListener("keydown", (event) => {
    const there = tabs.filter((tab) => !tab.hidden);
    const at = there.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: there.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    select(there.at(to % there.length), true);
  });
  select(tabs[0]);
}
