/* The review page's own script: draft and heartbeat, live changes, what the verdict keys wait for.

   Everything is found anew when it is needed: the page's content may have been swapped meanwhile. Nothing here
   decides anything by itself, and nothing typed is ever thrown away. */
"use strict";

(() => {
  const SAVE_AFTER = 2000;
  const CHANGES_AFTER = 200;
  const HEARTBEAT = 60000;
  const KEEPALIVE_LIMIT = 60000; // browsers refuse larger bodies once the page is going away

  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const form = () => $("#decision-form");
  const claim = () => $("[data-claim]")?.dataset.claim;
  const say = (text) => { const place = $("#next-step"); if (place) place.textContent = text; };

  /* --- what was typed --------------------------------------------------------------------------- */

  let now = null; // {claim, loaded, changed, saved, sent}: of the review on the screen

  const isOutput = (name) => name === "output" || name.startsWith("output.");
  const isTyped = (name) => isOutput(name) || ["reason", "cause", "note"].includes(name);

  function typed(which = isTyped) {
    return [...new FormData(form())].filter(([name]) => which(name));
  }

  const text = (fields) => JSON.stringify(fields);

  function review() {
    if (!form()) return null;
    if (!now || now.form !== form()) {
      now = { form: form(), claim: claim(), loaded: text(typed(isOutput)), saved: text(typed()), sent: false };
      now.changed = Boolean($("#changes")?.dataset.changed);
    }
    return now;
  }

  // Whether the output differs from what was submitted, as far as can be told without asking the server.
  function changed() {
    return text(typed(isOutput)) !== review().loaded || review().changed;
  }

  /* --- draft and heartbeat ------------------------------------------------------------------------ */

  let saving = null;

  function save() {
    const current = review();
    if (!current || current.sent || !current.claim) return;
    clearTimeout(saving);
    const fields = typed();
    const before = current.saved;
    current.saved = text(fields);
    window.htmx
      .ajax("PUT", current.claim, { target: "#lease", swap: "outerHTML", values: Object.fromEntries(fields) })
      .catch(() => { current.saved = before; });
  }

  function leave() {
    const current = now;
    if (!current || current.sent || !form() || text(typed()) === current.saved) return;
    const body = new URLSearchParams(typed());
    current.saved = text(typed());
    fetch(current.claim, {
      method: "PUT", body, headers: { "X-CSRFToken": window.rq.csrf() },
      keepalive: body.toString().length < KEEPALIVE_LIMIT,
    }).catch(() => { current.saved = ""; });
  }

  document.addEventListener("visibilitychange", () => { if (document.hidden) leave(); });
  window.addEventListener("pagehide", leave);
  setInterval(save, HEARTBEAT);

  /* --- changes while typing ------------------------------------------------------------------------ */

  let showing = null;

  document.addEventListener("input", (event) => {
    if (!event.target.form || event.target.form !== form()) return;
    clearTimeout(saving);
    saving = setTimeout(save, SAVE_AFTER);
    if (!isOutput(event.target.name)) return;
    clearTimeout(showing);
    showing = setTimeout(() => { if ($("#changes")) window.htmx.trigger("#changes", "changed-by-hand"); }, CHANGES_AFTER);
  });

  /* --- verdicts -------------------------------------------------------------------------------------- */

  let rejecting = false;

  function toReason(verdict) {
    const reason = $("[name=reason]", form());
    reason.focus();
    reason.scrollIntoView({ block: "center" });
    say(`Choose a reason, then Ctrl+Enter to ${verdict}.`);
  }

  function toEditor() {
    $("[data-key='2']", form())?.focus();
    say("Change the output, choose a reason, then Ctrl+Enter.");
  }

  // Says what a verdict still lacks instead of sending it in vain; the server says the same without script.
  function lacking(verdict) {
    const reason = $("[name=reason]", form()).value;
    if (verdict === "approve" && changed()) return () => say("You have changed the output: press Edit to release your version.");
    if (verdict === "edit" && !changed()) return toEditor;
    if (verdict !== "approve" && !reason) return () => toReason(verdict);
    return null;
  }

  document.addEventListener("submit", (event) => {
    if (event.target !== form() || event.submitter?.formAction.endsWith("/changes")) return;
    const verdict = event.submitter?.value || "";
    rejecting = verdict === "reject";
    const instead = review().sent ? () => {} : verdict && lacking(verdict);
    if (instead) {
      event.preventDefault();
      event.stopImmediatePropagation();
      instead();
      return;
    }
    review().sent = true;
    review().verdict = verdict;
    clearTimeout(saving);
    // No key may act again on what is already on its way.
    form().removeAttribute("data-ready");
  }, true);

  // htmx only knows of buttons that were clicked, and Ctrl+Enter clicks none.
  document.addEventListener("htmx:configRequest", (event) => {
    if (event.detail.elt === form() && now?.verdict) event.detail.parameters.verdict = now.verdict;
  });

  // What did not arrive, or was refused without a new page, can be sent again.
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!now || event.detail.elt !== now.form || !now.form.isConnected) return;
    now.sent = false;
    now.form.setAttribute("data-ready", "");
  });

  // Ctrl+Enter presses the button marked as default: the verdict that fits what was done.
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key !== "Enter" || !form()) return;
    const reason = $("[name=reason]", form()).value;
    const verdict = rejecting ? "reject" : changed() ? "edit" : reason ? "" : "approve";
    for (const button of all("button[name=verdict]", form())) {
      button.toggleAttribute("data-default", button.value === verdict);
    }
    if (!verdict) {
      event.preventDefault();
      say("Choose approve, edit or reject.");
    }
  }, true);

  /* --- small forms beside the verdict ------------------------------------------------------------------ */

  document.addEventListener("toggle", (event) => {
    if (event.target.matches?.("details.aside") && event.target.open) $("input:not([type=hidden]), select, textarea", event.target)?.focus();
  }, true);

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    rejecting = false;
    for (const aside of all("details.aside[open]")) {
      aside.open = false;
      $("summary", aside).focus();
    }
  });

  /* --- clocks -------------------------------------------------------------------------------------------- */

  const deadlines = new WeakMap();

  // Seconds left until what `element` tells of is over, counted from when it came onto the page.
  function left(element, seconds) {
    if (!deadlines.has(element)) deadlines.set(element, performance.now() + seconds * 1000);
    return Math.ceil((deadlines.get(element) - performance.now()) / 1000);
  }

  function tick() {
    for (const undo of all("[data-undo]")) {
      const seconds = left(undo, Number(undo.dataset.undo));
      if (seconds <= 0) undo.remove();
      else $("[data-undo-left]", undo).textContent = `${seconds} s`;
    }
    const lease = $("#lease[data-left]");
    if (!lease) return;
    const seconds = left(lease, Number(lease.dataset.left));
    if (seconds <= 0) lease.textContent = "Your claim has run out; go on, unless somebody takes it.";
    else if (seconds <= 60 && !lease.dataset.told) {
      lease.dataset.told = "yes";
      lease.textContent = "Your claim ends in a minute.";
    }
  }

  setInterval(tick, 1000);

  /* --- at the start, and after a swap ----------------------------------------------------------------------- */

  function wake() {
    tick();
    review();
    if (!$("#lost")) return;
    for (const button of all("button[name=verdict]")) button.disabled = true;
  }

  // htmx hands attributes on to what has the same id, and the policy forbids a style to come that way: the
  // size a text area was drawn to.
  document.addEventListener("htmx:beforeSwap", (event) => {
    for (const drawn of all("[style]", event.detail.target)) drawn.removeAttribute("style");
  });

  // The next item came without a new page: keys must find nothing focused, and readers begin at its top.
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.target === document.body || event.target.id === "main") $("#main").focus({ preventScroll: true });
  });

  document.addEventListener("htmx:afterSwap", wake);
  wake();
})();
