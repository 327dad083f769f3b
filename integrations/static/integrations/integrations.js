// Everything works without this module; it saves a selection and a second submit.

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
