// Everything works without this module; it only saves the athlete a selection, a press, a page, a
// second submit and a reload.

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

// A confirmation is a page of its own, or a dialog.
for (const link of document.querySelectorAll("a[data-opens]")) {
  link.setAttribute("role", "button");
  link.setAttribute("aria-haspopup", "dialog");
  const open = (event) => {
    event.preventDefault();
    document.getElementById(link.dataset.opens).showModal();
  };
  link.addEventListener("click", open);
  link.addEventListener("keydown", (event) => event.key === " " && open(event));
}

// Times come in UTC, and are shown in the reader's own zone.
for (const time of document.querySelectorAll("time[data-local]")) {
  const style = time.dataset.local ? { dateStyle: "long" } : { dateStyle: "medium", timeStyle: "short" };
  try {
    time.textContent = new Intl.DateTimeFormat(document.documentElement.lang || undefined, style).format(new Date(time.dateTime));
  } catch {
    break; // the browser does not know the language
  }
}

document.addEventListener("submit", ({ submitter, target }) => {
  if (!submitter || target.method === "dialog") return;
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

// Also for a page from the back/forward cache, and for a reload that kept the button's state.
addEventListener("pageshow", release);

// A switch saves itself. Its button stays in the tab order, and shows when focused.
for (const form of document.querySelectorAll("form[data-saves-itself]")) {
  const button = form.querySelector("button");
  button.classList.add("shown-by-focus");
  form.querySelector("[data-at-once]").hidden = false;
  form.addEventListener("change", () => form.requestSubmit(button));
}

// The result is shown where the athlete looks for it: a failure in its card, with the focus in the
// field that is to blame; a success at the top of the page or in its card.
const before = history.state; // what the page has noted before it reloaded itself
if (before?.moved) history.replaceState(null, "");
const alert = document.querySelector("main [role=alert]");
const news = alert ?? document.querySelector("main > .notice") ?? moved();
if (news) {
  const field = document.querySelector("[aria-invalid=true]");
  // After the load, because until then the browser may move the focus and the view again.
  if (document.readyState === "complete") tell(news, field);
  else addEventListener("load", () => tell(news, field), { once: true });
}

// For those who do not see it, and for those who have scrolled elsewhere.
function tell(news, field) {
  if (!news.matches("input")) news.tabIndex = -1;
  (field ?? news).focus({ preventScroll: true });
  // Its label and the field itself come below it, and should be in view, too.
  news.scrollIntoView({ block: field ? "start" : "nearest" });
}

// After the page has reloaded by itself: say so in the title, and in a live region of its own, because
// only what changes in one is read out, and nothing may move under the athlete's finger.
function moved() {
  const card = before?.moved && document.querySelector(before.moved);
  if (!card) return null;
  const said = card.querySelector(`[data-news][data-when="${before.when}"]`) ?? card.querySelector("[data-news]:not([data-when])");
  if (said) {
    const words = said.textContent.trim();
    if (said.dataset.when) document.title = `${words} – ${document.title}`;
    said.hidden = false;
    const announcer = document.createElement("p");
    announcer.className = "visually-hidden";
    announcer.setAttribute("role", "status");
    document.querySelector("main").append(announcer);
    setTimeout(() => (announcer.textContent = words), 100);
  }
  return card.querySelector("input[autofocus]") ?? (said?.matches(".notice") ? said : card.querySelector(".notice:not([hidden])")) ?? card;
}

// A sign-in or a sync runs in the background: ask for its status, less and less often and never for
// a hidden tab, and reload the page once it changes.
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
      if (response.status === 401) break; // signed out meanwhile
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
    history.replaceState(
      { moved: isGear ? `#${provider}-gear` : `[data-provider="${provider}"]`, when: isGear ? "synced" : now.status },
      "",
    );
    history.scrollRestoration = "manual"; // otherwise the view would jump back
    location.reload();
    return;
  }
  const stalled = card.querySelector("[data-stalled]");
  if (stalled) stalled.hidden = false;
}

// Compare with what the page was made from, not the first answer, which may be newer.
function hasMovedOn({ status, syncedAt, gear, error, syncing }, now) {
  return (
    now.status !== status ||
    String(now.gear) !== gear ||
    (now.error?.code ?? "") !== error ||
    // The page has microseconds; the answer has milliseconds.
    Math.abs((Date.parse(now.last_synced_at) || 0) - (Date.parse(syncedAt) || 0)) > 1 ||
    // Without a worker none of this changes. After a minute the site counts it as ended.
    (syncing !== undefined && performance.now() > 62_000)
  );
}

function isTyped() {
  return [...document.querySelectorAll("input")].some((input) =>
    input.type === "checkbox" ? input.checked !== input.defaultChecked : input.value !== input.defaultValue,
  );
}
