// Before the first paint, so that a page never flashes in the other theme. Without a choice the system's one counts.
try {
  const chosen = localStorage.getItem("mdrec.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // a browser that keeps nothing follows the system
}
