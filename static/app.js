/* What every page does with script, and none needs it for: safe swaps, keys, local times, questions.

   Content never becomes markup here. The one place that turns text into markup is `parsed`, and it is given
   only what our own server answered to htmx; anything else is refused by the browser (trusted types). */
"use strict";

(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const csrf = () => $('meta[name="csrf-token"]').content;

  /* --- swaps ------------------------------------------------------------------------------------ */

  const policy = window.trustedTypes
    ? window.trustedTypes.createPolicy("rq-htmx", { createHTML: (html) => html })
    : { createHTML: (html) => html };

  // htmx would parse the answer itself, with a string, which trusted types refuse; it takes nodes as well.
  function parsed(html) {
    const whole = /^\s*(<!doctype|<html)/i.test(html);
    const source = whole ? html : `<body><template>${html}</template></body>`;
    const page = new DOMParser().parseFromString(policy.createHTML(source), "text/html");
    const fragment = whole ? document.createDocumentFragment() : page.body.firstChild.content;
    if (whole) fragment.append(...page.body.childNodes);
    all("script", fragment).forEach((script) => script.remove());
    fragment.title = page.title;
    return fragment;
  }

  document.addEventListener("htmx:beforeSwap", (event) => {
    const { detail } = event;
    const status = detail.xhr.status;
    const meant = detail.xhr.getResponseHeader("HX-Retarget") || status === 409 || status === 422;
    if (status >= 400 && !meant) {
      detail.shouldSwap = false;
      notice(`That did not work (${status}). Try again.`, "refused");
    }
    if (detail.shouldSwap && typeof detail.serverResponse === "string") {
      detail.serverResponse = parsed(detail.serverResponse);
    }
  });

  document.addEventListener("htmx:configRequest", (event) => {
    event.detail.headers["X-CSRFToken"] = csrf();
  });

  document.addEventListener("htmx:sendError", () => {
    if (!$("#offline")) notice("The server cannot be reached. Try again.", "refused");
  });

  /* --- notices ---------------------------------------------------------------------------------- */

  function notice(text, kind = "done") {
    const line = document.createElement("p");
    line.className = `notice notice-${kind}`;
    line.textContent = text;
    $("#notices").replaceChildren(line);
  }

  /* --- times: in words, exact in the reader's own zone on hover ------------------------------------ */

  const UNITS = [[31536000, "y"], [2592000, "mo"], [86400, "d"], [3600, "h"], [60, "min"], [10, "s"]];
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

  function ago(moment) {
    const seconds = (Date.now() - moment) / 1000;
    const unit = UNITS.find(([size]) => Math.abs(seconds) >= size);
    if (!unit) return "now";
    const text = `${Math.floor(Math.abs(seconds) / (unit[1] === "s" ? 1 : unit[0]))} ${unit[1]}`;
    return seconds > 0 ? `${text} ago` : `in ${text}`;
  }

  function tellTimes(from = document) {
    for (const element of all("time[datetime]", from)) {
      const moment = new Date(element.dateTime);
      if (Number.isNaN(moment.getTime())) continue;
      element.title = exact.format(moment);
      element.textContent = element.hasAttribute("data-exact") ? element.title : ago(moment);
    }
  }

  /* --- keys ------------------------------------------------------------------------------------- */

  const visible = (element) => element.checkVisibility({ visibilityProperty: true });
  const typing = (element) =>
    element.isContentEditable || element.matches("textarea, select, input:not([type=checkbox], [type=radio])");

  // A guarded form acts on keys only once it was painted: nobody decides on what is not yet on the screen.
  function guard(from = document) {
    for (const form of all("form[data-guard]:not([data-ready])", from)) {
      requestAnimationFrame(() => requestAnimationFrame(() => form.setAttribute("data-ready", "")));
    }
  }

  const ready = (element) => {
    const form = element.form || element.closest("form");
    return !form || !form.hasAttribute("data-guard") || form.hasAttribute("data-ready");
  };

  function pressed(event) {
    if (event.defaultPrevented || event.isComposing || event.repeat) return;
    const focus = document.activeElement || document.body;
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") return submitFocused(event, focus);
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k" && $("#palette")) return openPalette(event);
    if (focus.id === "palette-q" && walkGoals(event, focus)) return;
    if (event.key === "Escape" && typing(focus) && !focus.closest("dialog")) return focus.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || typing(focus)) return;
    const open = $("dialog[open]");
    const key = event.key.toLowerCase();
    const target = all("[data-key]", open || document).find(
      (element) => element.dataset.key.toLowerCase() === key && !element.disabled && visible(element),
    );
    if (target) {
      event.preventDefault();
      if (!ready(target)) return;
      if (typing(target)) target.focus();
      else target.click();
    } else if (!open && (key === "j" || key === "k")) {
      step(event, key === "j" ? 1 : -1);
    }
  }

  function submitFocused(event, focus) {
    const form = focus.form || focus.closest("form") || $("form[data-default-form]");
    if (!form) return;
    event.preventDefault();
    if (ready(form)) form.requestSubmit($("[data-default]:not(:disabled)", form));
  }

  // The palette: a few letters, arrows, Enter.
  function openPalette(event) {
    event.preventDefault();
    const input = $("#palette-q");
    if (!$("#palette").open) $("#palette").showModal();
    input.select();
    window.htmx.trigger(input, "opened");
  }

  function walkGoals(event, input) {
    const goals = all("#goals a[role=option]");
    const at = goals.findIndex((goal) => goal.ariaSelected === "true");
    if (event.key === "Enter") {
      event.preventDefault();
      goals[at]?.click();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const next = goals[(at + (event.key === "ArrowDown" ? 1 : goals.length - 1)) % goals.length];
      for (const goal of goals) goal.ariaSelected = String(goal === next);
      if (next) input.setAttribute("aria-activedescendant", next.id);
      next?.scrollIntoView({ block: "nearest" });
    }
    return event.key === "Enter" || event.key.startsWith("Arrow");
  }

  // J and K walk the links marked data-row.
  function step(event, way) {
    const rows = all("[data-row]").filter(visible);
    const at = rows.indexOf(document.activeElement);
    const next = rows[at < 0 ? (way > 0 ? 0 : rows.length - 1) : at + way];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }

  function listKeys() {
    const rows = all("[data-key]").filter((element) => visible(element) && !element.closest("dialog"));
    const lines = rows.map((element) => [element.dataset.key, labelOf(element)]);
    if ($("[data-row]")) lines.push(["J / K", "Next and previous row"]);
    if ($("form [data-default]")) lines.push(["Ctrl Enter", "Send the form"]);
    if ($("#palette")) lines.push(["Ctrl K", "Go to a page, queue or item"]);
    const list = $("[data-keys-list]");
    list.replaceChildren();
    for (const [key, label] of lines) {
      const term = document.createElement("dt");
      const mark = document.createElement("kbd");
      mark.textContent = key.length === 1 ? key.toUpperCase() : key;
      term.append(mark);
      const text = document.createElement("dd");
      text.textContent = label;
      list.append(term, text);
    }
  }

  function labelOf(element) {
    if (element.dataset.keyLabel || element.ariaLabel) return element.dataset.keyLabel || element.ariaLabel;
    if (element.labels && element.labels.length) return element.labels[0].textContent.trim();
    const copy = element.cloneNode(true);
    all("kbd, .visually-hidden", copy).forEach((part) => part.remove());
    return copy.textContent.trim();
  }

  /* --- questions, dialogs, copying ---------------------------------------------------------------- */

  const agreed = new WeakSet();

  let pending = null;

  function ask(element, text, then) {
    const dialog = $("#confirm");
    $("[data-confirm-text]", dialog).textContent = text;
    $("[data-confirm-yes]", dialog).textContent = labelOf(element) || "Go on";
    pending = () => {
      agreed.add(element);
      then();
      agreed.delete(element);
    };
    dialog.returnValue = "no";
    dialog.showModal();
  }

  // The event comes late: by then the next question may be open, which this answer does not concern.
  document.addEventListener("close", (event) => {
    if (event.target.id !== "confirm" || event.target.open) return;
    const then = pending;
    pending = null;
    if (event.target.returnValue === "yes" && then) then();
  }, true);

  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (!button || !button.dataset.confirm || agreed.has(button)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    ask(button, button.dataset.confirm, () => event.target.requestSubmit(button));
  }, true);

  document.addEventListener("click", (event) => {
    const element = event.target.closest("[data-open], [data-copy]");
    if (!element) return;
    if (element.dataset.open) {
      if (element.dataset.open === "keys-help") listKeys();
      const dialog = document.getElementById(element.dataset.open);
      if (dialog && !dialog.open) dialog.showModal();
    } else {
      copy(element);
    }
  });

  async function copy(button) {
    const source = $(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.value ?? source.textContent);
      const said = $("span", button) || button;
      const before = said.textContent;
      said.textContent = "Copied";
      setTimeout(() => { said.textContent = before; }, 1500);
    } catch {
      getSelection().selectAllChildren(source);
    }
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-autosubmit]")) event.target.form.requestSubmit();
  });

  /* --- at the start, and wherever htmx put something new ------------------------------------------- */

  function wake(from = document) {
    all("[data-script]", from).forEach((element) => element.removeAttribute("hidden"));
    tellTimes(from);
    guard(from);
  }

  document.addEventListener("keydown", pressed);
  document.addEventListener("htmx:afterSwap", () => wake());
  setInterval(tellTimes, 30000);
  wake();
  const here = $(".app-nav [aria-current]");
  if (here) here.parentElement.scrollLeft = here.offsetLeft - here.parentElement.clientWidth / 2;

  window.rq = Object.freeze({ csrf, notice, wake });
})();
