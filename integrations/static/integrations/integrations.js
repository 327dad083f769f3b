// Everything works without this module; it saves a selection, a press, a second submit and a reload.

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

// A switch saves itself. Its button stays in the order of the keyboard, and shows when focused.
for (const form of document.querySelectorAll("form[data-saves-itself]")) {
  const button = form.querySelector("button");
  button.classList.add("shown-by-focus");
  form.querySelector("[data-at-once]").hidden = false;
  form.addEventListener("change", () => form.requestSubmit(button));
}

// A message is told at the top. A form may lead back to its own place on the page, which tells by
// itself how things stand, but not what was wrong.
const message = document.querySelector(location.hash ? "main > .notice-error" : "main > .notice");
if (message) tell(message);

// To those who do not see it, and to those who have scrolled elsewhere.
function tell(news) {
  news.tabIndex = -1;
  news.focus({ preventScroll: true });
  news.scrollIntoView({ block: news.matches(".notice") ? "nearest" : "start" });
}

// A sign-in or a synchronisation runs in the background: ask how it stands, ever less often and
// never for a hidden tab, and load the page again once it has moved on.
for (const card of document.querySelectorAll("[data-poll]")) follow(card);

async function follow(card) {
  const { poll, provider } = card.dataset;
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
      now = (await response.json())[provider];
      failures = 0;
    } catch {
      failures += 1;
      continue;
    }
    if (!hasMovedOn(card.dataset, now)) continue;
    if (document.querySelector("button[aria-busy]")) continue; // Cancel, say, is under way
    if (isTyped()) break; // into another card; a reload would lose it
    const isGear = now.status === card.dataset.status && document.getElementById(`${provider}-gear`);
    history.replaceState({ moved: isGear ? `#${provider}-gear` : `[data-provider="${provider}"]` }, "");
    location.reload();
    return;
  }
  const stalled = card.querySelector("[data-stalled]");
  if (stalled) stalled.hidden = false;
}

// Against what the page was made from, not the first answer: it may have moved on in between.
function hasMovedOn({ status, syncedAt, gear, error, syncing }, now) {
  return (
    now.status !== status ||
    String(now.gear) !== gear ||
    (now.error?.code ?? "") !== error ||
    // The page has microseconds, the answer milliseconds.
    Math.abs((Date.parse(now.last_synced_at) || 0) - (Date.parse(syncedAt) || 0)) > 1 ||
    // Without a worker nothing of it changes. After a minute the site counts it as ended.
    (syncing !== undefined && performance.now() > 62_000)
  );
}

function isTyped() {
  return [...document.querySelectorAll("input")].some((input) =>
    input.type === "checkbox" ? input.checked !== input.defaultChecked : input.value !== input.defaultValue,
  );
}

// After such a reload, tell what has become of it.
if (history.state?.moved) {
  const card = document.querySelector(history.state.moved);
  history.replaceState(null, "");
  if (card && !card.querySelector("[autofocus]")) {
    tell(card.querySelector(".notice") ?? card);
  }
}
