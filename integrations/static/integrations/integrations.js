// Everything works without this module; it saves a selection, a second submit and a reload.

for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) break; // plain http: the text can still be selected
  const said = document.getElementById(button.dataset.said);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    } catch {
      return; // not permitted
    }
    said.textContent = button.dataset.copied;
    setTimeout(() => (said.textContent = ""), 4000);
  });
}

document.addEventListener("submit", ({ submitter }) => {
  if (!submitter) return;
  submitter.disabled = true;
  submitter.setAttribute("aria-busy", "true");
  setTimeout(release, 15_000); // the athlete has stopped loading
});

function release() {
  for (const button of document.querySelectorAll("button:disabled")) {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}

// Also for a page out of the back/forward cache, and for a reload that kept the button's state.
addEventListener("pageshow", release);

// A sign-in runs in the background: ask how it stands, ever less often and never for a hidden tab,
// and load the page again once it has moved on.
for (const card of document.querySelectorAll("[data-poll]")) follow(card);

async function follow(card) {
  const { poll, provider, status } = card.dataset;
  for (let wait = 1500, failures = 0; failures < 5; wait = Math.min(wait * 1.2, 5000)) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    while (document.hidden) {
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    }
    let now;
    try {
      const response = await fetch(poll, {
        headers: { Accept: "application/json" },
        signal: AbortSignal.timeout(10_000),
      });
      if (response.status === 401) break; // logged out meanwhile
      if (!response.ok) throw new Error(response.statusText);
      now = (await response.json())[provider].status;
      failures = 0;
    } catch {
      failures += 1;
      continue;
    }
    if (now === status || document.querySelector("button[aria-busy]")) continue; // or Cancel is under way
    if (isTyped()) break; // into another card; a reload would lose it
    history.replaceState({ moved: provider }, "");
    location.reload();
    return;
  }
  card.querySelector("[data-stalled]").hidden = false;
}

function isTyped() {
  return [...document.querySelectorAll("input")].some((input) => input.value !== input.defaultValue);
}

// After such a reload, tell those who do not see it what has become of the sign-in.
if (history.state?.moved) {
  const card = document.querySelector(`[data-provider="${history.state.moved}"]`);
  history.replaceState(null, "");
  if (card && !card.querySelector("[autofocus]")) {
    const news = card.querySelector(".notice") ?? card;
    news.tabIndex = -1;
    news.focus({ preventScroll: true });
  }
}
