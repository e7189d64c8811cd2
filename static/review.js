/* The review page's own script: draft and heartbeat, live changes, what the verdict keys wait for.

   Everything is found anew when it is needed: the page's content may have been swapped meanwhile. Nothing here
   decides anything by itself, and nothing typed is ever thrown away. */
"use strict";

(() => {
  const SAVE_AFTER = 1000; // of a pause
  const SAVE_WHILE_TYPING = 5000;
  const CHANGES_AFTER = 200;
  const HEARTBEAT = 60000;
  const LOOK = 4000; // whether the review is still ours
  const AGAIN = [1000, 2000, 4000, 8000]; // after a save that did not arrive
  const KEEPALIVE_LIMIT = 60000; // browsers refuse larger bodies once the page is going away

  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const form = () => $("#decision-form");
  const claim = () => $("[data-claim]")?.dataset.claim;
  const say = (text) => { const place = $("#next-step"); if (place) place.textContent = text; };
  const announce = (text) => { const place = $("#said"); if (place) place.textContent = text; };

  /* --- what was typed --------------------------------------------------------------------------- */

  let now = null; // {claim, loaded, changed, saved, sent}: of the review on the screen

  const isOutput = (name) => name === "output" || name === "shape" || name.startsWith("output.");
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
      now.lost = Boolean($("#lost"));
    }
    return now;
  }

  // Whether the output differs from what was submitted, as far as can be told without asking the server.
  function changed() {
    return text(typed(isOutput)) !== review().loaded || review().changed;
  }

  /* --- draft and heartbeat: one save at a time, so that none overtakes a later one ---------------------- */

  let saving = null; // a timer
  let waitingSince = 0;
  let busy = null; // what is on its way
  let failed = 0;

  const dirty = () => Boolean(now && form() && text(typed()) !== now.saved);

  function later(after = SAVE_AFTER) {
    clearTimeout(saving);
    if (!waitingSince) waitingSince = Date.now();
    saving = setTimeout(save, Math.max(0, Math.min(after, waitingSince + SAVE_WHILE_TYPING - Date.now())));
  }

  function save() {
    const current = review();
    if (!current || current.sent || !current.claim || busy) return;
    clearTimeout(saving);
    waitingSince = 0;
    // A tab in which nothing was typed since must not put its old text over what another one has saved.
    const fields = dirty() ? typed() : [];
    busy = { review: current, text: text(typed()) };
    window.htmx
      .ajax("PUT", current.claim, { target: "#lease", swap: "outerHTML", values: Object.fromEntries(fields) })
      .catch(() => {}); // told by htmx:afterRequest
  }

  // A save came back, or did not arrive (status 0).
  function saved(status) {
    const { review: current, text: sent } = busy;
    busy = null;
    if ((status >= 200 && status < 300) || status === 409) {
      current.saved = sent;
      current.lost ||= status === 409;
      if (failed) announce("The connection is back. Your draft is saved.");
      failed = 0;
      offline(null);
      if (current === now && dirty() && !current.lost) later();
    } else if (status !== 422 && status !== 413) {
      offline(status === 401 ? "signed out" : "away");
      clearTimeout(saving);
      saving = setTimeout(again, AGAIN[Math.min(failed++, AGAIN.length - 1)]);
    }
  }

  async function again() {
    if (await renewed()) save();
    else saving = setTimeout(again, AGAIN[Math.min(failed++, AGAIN.length - 1)]);
  }

  // Whoever signed in again, here or in another tab, has a new token; without it nothing would be taken.
  async function renewed() {
    try {
      const answer = await fetch("/login", { headers: { "X-Polling": "1" } });
      const page = await answer.text();
      const token = page.match(/name="csrf-token" content="([^"<>]+)"/);
      if (!token || !page.includes('action="/logout"')) {
        offline(answer.ok ? "signed out" : "away");
        return false;
      }
      $('meta[name="csrf-token"]').content = token[1];
      for (const field of all("input[name=csrf_token]")) field.value = token[1];
      return true;
    } catch {
      offline("away");
      return false;
    }
  }

  // Tells at once what keeps a draft from being saved; what is typed stays where it is meanwhile.
  function offline(why) {
    const place = $("#offline");
    if (!place || place.dataset.why === (why || "")) return;
    place.dataset.why = why || "";
    place.hidden = !why;
    place.replaceChildren();
    if (why === "signed out") {
      const link = document.createElement("a");
      link.href = "/login";
      link.target = "_blank";
      link.textContent = "Sign in in another tab";
      place.append("You are signed out. ", link, "; what you typed stays here and is saved then.");
    } else if (why) {
      place.textContent = "The server cannot be reached. Go on: what you type is sent when it is back.";
    }
  }

  function leave() {
    const current = now;
    if (!current || current.sent || !dirty()) return;
    const body = new URLSearchParams(typed());
    const before = current.saved;
    current.saved = text(typed());
    fetch(current.claim, {
      method: "PUT", body, headers: { "X-CSRFToken": window.rq.csrf() },
      keepalive: body.toString().length < KEEPALIVE_LIMIT,
    }).then((answer) => { if (!answer.ok && answer.status !== 409) current.saved = before; }, () => { current.saved = before; });
  }

  // Whether somebody else has it now: a look, which keeps nothing and renews nothing.
  function look() {
    const current = review();
    if (!current || current.sent || current.lost || busy || document.hidden || !$("#lost-place")) return;
    window.htmx
      .ajax("GET", `${current.claim}/lease`, { target: "#lost-place", swap: "innerHTML", headers: { "X-Polling": "1" } })
      .catch(() => {});
  }

  document.addEventListener("visibilitychange", () => { if (document.hidden) leave(); else look(); });
  window.addEventListener("pagehide", leave);
  window.addEventListener("offline", () => { if (review()) offline("away"); });
  window.addEventListener("online", () => { if (review()) { clearTimeout(saving); failed ||= 1; again(); } });
  setInterval(save, HEARTBEAT);
  setInterval(look, LOOK);

  const isSave = (detail) => busy && detail.requestConfig?.verb === "put";
  const isLook = (detail) => detail.requestConfig?.path?.endsWith("/lease");

  // Being signed out must not lead away from what was typed, as the answer to any request would.
  document.addEventListener("htmx:beforeOnLoad", (event) => {
    const { detail } = event;
    const { status } = detail.xhr;
    // What comes late is about a review that is being decided, or no longer on the screen.
    if ((isLook(detail) || detail.requestConfig?.verb === "put") && (now?.sent || !detail.requestConfig.path.startsWith(claim() || "//"))) {
      event.preventDefault();
      return;
    }
    if (!form() || !(status === 401 || ([400, 403, 503].includes(status) && (isSave(detail) || isLook(detail))))) return;
    event.preventDefault();
    if (status !== 401 || isSave(detail)) return;
    offline("signed out");
    failed ||= 1;
    clearTimeout(saving);
    saving = setTimeout(again, AGAIN[0]);
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const { detail } = event;
    const status = detail.xhr?.status || 0;
    if (isLook(detail) && now?.sent) return;
    if (isSave(detail)) saved(status === 400 || status === 403 ? 401 : status);
    else if (isLook(detail) && !busy && [0, 401].includes(status)) save();
  });

  /* --- changes while typing ------------------------------------------------------------------------ */

  let showing = null;

  function typedNow(name) {
    later();
    if (!isOutput(name)) return;
    clearTimeout(showing);
    showing = setTimeout(() => { if ($("#changes")) window.htmx.trigger("#changes", "changed-by-hand"); }, CHANGES_AFTER);
  }

  for (const kind of ["input", "change"]) {
    document.addEventListener(kind, (event) => {
      if (event.target.form && event.target.form === form() && event.target.name) typedNow(event.target.name);
    });
  }

  /* --- verdicts -------------------------------------------------------------------------------------- */

  let wanted = ""; // the verdict that waits for its reason

  function choose(verdict) {
    wanted = verdict;
    const dialog = $("#why");
    for (const step of all("[data-step]", dialog)) step.hidden = step.dataset.step !== "reason";
    $("#why-title").textContent = verdict === "reject" ? "Why reject it?" : "Why change it?";
    if (!dialog.open) dialog.show();
    $("[data-choose]", dialog)?.focus();
    say(`Choose a reason, then Ctrl+Enter to ${verdict}.`);
  }

  function stopChoosing() {
    const dialog = $("#why");
    if (dialog?.open) dialog.close();
  }

  // A reason, then a cause, and the verdict goes: each one key.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-choose]");
    if (!button || !form()) return;
    const field = $(`[name=${button.dataset.choose}]`, form());
    field.value = button.dataset.value;
    typedNow(field.name);
    const cause = $('#why [data-step="cause"]');
    if (button.dataset.choose === "reason" && $("[data-choose=cause]", cause)) {
      for (const step of all("#why [data-step]")) step.hidden = step !== cause;
      $("#why-title").textContent = `Because of “${button.dataset.value}”. Where did the fault lie?`;
      $("[data-choose]", cause).focus();
      return;
    }
    stopChoosing();
    const verdict = $(`button[name=verdict][value=${wanted}]`, form());
    if (verdict && form().hasAttribute("data-ready")) form().requestSubmit(verdict);
  });

  function open() {
    for (const fold of all("details.care:not([open])")) fold.open = true;
  }

  function toEditor() {
    open();
    const first = $("#editor [data-first]");
    const field = first ? $("input:not([type=hidden]), select, textarea", first) : $("#editor [data-key]");
    (field || $("#editor textarea"))?.focus();
    say("Change the output, then Ctrl+Enter.");
  }

  // Says what a verdict still lacks instead of sending it in vain; the server says the same without script.
  function lacking(verdict) {
    const reason = $("[name=reason]", form()).value;
    if (verdict === "approve" && changed()) return () => say("You have changed the output: press Edit to release your version.");
    if (verdict === "approve" && $("details.care:not([open]) .content")) return () => say("Open the output before you approve it.");
    if (verdict === "edit" && !changed()) return toEditor;
    if (verdict !== "approve" && !reason) return () => choose(verdict);
    return null;
  }

  document.addEventListener("submit", (event) => {
    const address = event.submitter?.hasAttribute("formaction") ? event.submitter.formAction : "";
    if (event.target !== form() || address.endsWith("/changes") || address.endsWith("/shape")) return;
    const verdict = event.submitter?.value || "";
    const instead = review().sent ? () => {} : verdict && lacking(verdict);
    wanted = verdict === "reject" || instead ? verdict : "";
    if (instead) {
      event.preventDefault();
      event.stopImmediatePropagation();
      instead();
      return;
    }
    stopChoosing();
    if ($("#changes")) window.htmx.trigger("#changes", "htmx:abort"); // its answer would come to another page
    clearTimeout(showing);
    review().sent = true;
    review().verdict = verdict;
    clearTimeout(saving);
    // No key may act again on what is already on its way.
    form().removeAttribute("data-ready");
  }, true);

  // htmx only knows of buttons that were clicked, and Ctrl+Enter clicks none.
  document.addEventListener("htmx:configRequest", (event) => {
    if (event.detail.elt !== form() || !now?.verdict) return;
    event.detail.parameters.verdict = now.verdict;
    if (ahead?.path && ahead.form === now.form) event.detail.parameters.ahead = ahead.path.split("/").pop();
  });

  // What did not arrive, or was refused without a new page, can be sent again.
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!now || event.detail.elt !== now.form || !now.form.isConnected) return;
    now.sent = false;
    now.form.setAttribute("data-ready", "");
    if (!event.detail.xhr?.status) { offline("away"); failed ||= 1; later(); }
  });

  // Ctrl+Enter presses the button marked as default: the verdict that fits what was done.
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key !== "Enter" || !form()) return;
    const reason = $("[name=reason]", form()).value;
    const verdict = wanted === "reject" ? "reject" : changed() ? "edit" : reason ? "" : "approve";
    for (const button of all("button[name=verdict]", form())) {
      button.toggleAttribute("data-default", button.value === verdict);
    }
    if (!verdict) {
      event.preventDefault();
      say("Choose approve, edit or reject.");
    }
  }, true);

  // The key of Edit and the fold's key reach what is folded, too.
  document.addEventListener("focus", (event) => { if (event.target.matches?.("[data-first]")) toEditor(); }, true);
  document.addEventListener("click", (event) => { if (event.target.closest?.(".typed[data-first]") === event.target) toEditor(); });

  /* --- the next review, fetched while this one is read ---------------------------------------------------- */

  const AHEAD_AFTER = 150;
  let ahead = null; // {form, path, html}: a page that only this script has seen yet

  async function fetchAhead() {
    const current = review();
    if (!current || current.lost || current.sent || ahead?.form === current.form || document.hidden) return;
    ahead = { form: current.form };
    try {
      const answer = await fetch(`${current.claim}/ahead`, { method: "POST", headers: { "X-CSRFToken": window.rq.csrf() } });
      const html = await answer.text();
      const path = answer.headers.get("X-Next-Claim");
      // Too late it is left alone: nobody opens it, and it is free again in half a minute.
      if (path && form() === current.form && !current.sent) ahead = { form: current.form, path, html };
    } catch { /* then the next one is fetched when it is wanted */ }
  }

  function giveBack(path) {
    const body = new URLSearchParams({ csrf_token: window.rq.csrf(), unopened: "yes" });
    fetch(`${path}/release`, { method: "POST", body, keepalive: true }).catch(() => {});
  }

  // What leads on without a verdict leads to the same next review.
  document.addEventListener("submit", (event) => {
    if (!ahead?.path || !event.target.closest(".asides")) return;
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name: "ahead", value: ahead.path.split("/").pop() });
    event.target.append(field);
    ahead = null;
  });

  window.addEventListener("pagehide", () => { if (ahead?.path) giveBack(ahead.path); ahead = null; });

  // The server says whether what was fetched is ours now; its answer is what has changed on it since.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { detail } = event;
    const path = detail.xhr.getResponseHeader("X-Next-Claim");
    if (!path || detail.requestConfig.elt !== now?.form) return;
    if (ahead?.path !== path) { window.location.assign(path); detail.shouldSwap = false; return; }
    detail.serverResponse = ahead.html.replace(/<!--undo-->[^]*?<!--\/undo-->/, () => detail.xhr.responseText);
    ahead = null;
    setTimeout(save, 0); // its lease began when it was opened
  }, true);

  /* --- small forms beside the verdict ------------------------------------------------------------------ */

  document.addEventListener("toggle", (event) => {
    if (event.target.matches?.("details.care") && event.target.open) open();
    if (event.target.matches?.("details.aside") && event.target.open) $("input:not([type=hidden]), select, textarea", event.target)?.focus();
  }, true);

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    wanted = "";
    stopChoosing();
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
    if (form() && !$("#lost")) setTimeout(fetchAhead, AHEAD_AFTER);
    if (!$("#lost")) return;
    if (now) now.lost = true;
    for (const button of all("button[name=verdict]")) button.disabled = true;
  }

  // htmx hands attributes on to what has the same id, and the policy forbids a style to come that way: the
  // size a text area was drawn to.
  document.addEventListener("htmx:beforeSwap", (event) => {
    for (const drawn of all("[style]", event.detail.target)) drawn.removeAttribute("style");
  });

  // The next item came without a new page: keys must find nothing focused, and readers begin at its top.
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.target !== document.body && event.target.id !== "main") return;
    if (!$("dialog[open]")) $("#main").focus({ preventScroll: true });
    window.scrollTo(0, 0);
    const more = $(".more-like a")?.textContent;
    if (form()) announce(`Next item: ${form().dataset.title}.${more ? ` ${more}.` : ""}`);
  });

  document.addEventListener("htmx:afterSwap", wake);
  window.rqReview = Object.freeze({ typedNow, changed });
  wake();
})();
