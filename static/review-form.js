/* The fields of the review page: labels by a few letters, faults by their field, saved replies, times.

   The server judges; here only what can be told without asking is told at once. Content is put into the page as
   text, never as markup. */
"use strict";

(() => {
  const $ = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const form = () => $("#decision-form");
  const named = (name) => all("[name]", form()).find((field) => field.name === name);
  const typedIn = (field) => field.dispatchEvent(new Event("input", { bubbles: true }));

  /* --- labels ----------------------------------------------------------------------------------------- */

  const MOST = 9;

  function pick(label) {
    const select = named("output");
    select.value = label;
    typedIn(select);
    if ($("#find-label")) $("#find-label").value = "";
    close();
  }

  const labels = () => all("option", named("output")).map((option) => option.value);

  // Letters in a row at the start first, then at the start of a word, then anywhere.
  function found(typed) {
    const wanted = typed.trim().toLowerCase().replace(/[\s_-]+/g, " ");
    const ranked = labels().map((label) => {
      const words = label.toLowerCase().replace(/[\s_-]+/g, " ");
      const rank = words.startsWith(wanted) ? 0 : words.includes(` ${wanted}`) ? 1 : words.includes(wanted) ? 2 : 3;
      return [rank, label];
    });
    return ranked.filter(([rank]) => rank < 3).sort((one, other) => one[0] - other[0]).slice(0, MOST).map(([, label]) => label);
  }

  function close() {
    const list = $("#found-labels");
    if (!list) return;
    list.hidden = true;
    list.replaceChildren();
    $("#find-label").setAttribute("aria-expanded", "false");
    $("#find-label").removeAttribute("aria-activedescendant");
  }

  function offer(input) {
    const list = $("#found-labels");
    list.replaceChildren(...found(input.value).map((label, at) => {
      const option = document.createElement("li");
      option.id = `found-label-${at}`;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", String(at === 0));
      option.dataset.label = label;
      option.textContent = label;
      return option;
    }));
    list.hidden = !list.childElementCount;
    input.setAttribute("aria-expanded", String(!list.hidden));
    if (list.hidden) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", "found-label-0");
  }

  function walk(event) {
    const input = event.target;
    if (input.id !== "find-label") return;
    if (event.ctrlKey || event.metaKey) {
      // Who looks for a label has not decided for the one that stands there: first it is chosen, then sent.
      if (event.key !== "Enter" || !input.value.trim()) return;
      event.stopImmediatePropagation();
      if (!$("#found-labels [role=option]")) $("#next-step").textContent = "No label says that.";
    }
    const options = all("#found-labels [role=option]");
    const at = options.findIndex((option) => option.getAttribute("aria-selected") === "true");
    if (event.key === "Enter") {
      event.preventDefault();
      if (options[at]) pick(options[at].dataset.label);
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && options.length) {
      event.preventDefault();
      const next = options[(at + (event.key === "ArrowDown" ? 1 : options.length - 1)) % options.length];
      for (const option of options) option.setAttribute("aria-selected", String(option === next));
      input.setAttribute("aria-activedescendant", next.id);
      next.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Escape") {
      close();
    }
  }

  window.addEventListener("keydown", walk, true); // before the keys that decide
  document.addEventListener("click", (event) => {
    const label = event.target.closest?.("[data-label]");
    if (label && form()?.contains(label)) pick(label.dataset.label);
  });

  /* --- faults by their field ------------------------------------------------------------------------------ */

  const WHOLE = /^-?(?:0|[1-9]\d*)$/;
  const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;

  // What can be told of a text without the server, in the server's words.
  function fault(field) {
    const { type, required } = field.dataset;
    const typed = field.value.trim();
    if (!typed) return required && type !== "string" && type !== "text" ? "Is missing." : "";
    if (type === "integer" && typed !== "null" && !WHOLE.test(typed)) return "Must be a whole number such as 12.";
    if (type === "number" && typed !== "null" && !NUMBER.test(typed)) return "Must be a number such as 12 or 12.5.";
    return type === "integer" || type === "number" ? range(field, Number(typed)) : length(field);
  }

  function range(field, value) {
    const { minimum, maximum, above, below } = field.dataset;
    if (minimum !== undefined && value < Number(minimum)) return `Must be at least ${minimum}.`;
    if (maximum !== undefined && value > Number(maximum)) return `Must be at most ${maximum}.`;
    if (above !== undefined && value <= Number(above)) return `Must be more than ${above}.`;
    if (below !== undefined && value >= Number(below)) return `Must be less than ${below}.`;
    return "";
  }

  function length(field) {
    const { shortest, longest } = field.dataset;
    const size = [...field.value].length;
    if (shortest !== undefined && size < Number(shortest)) return `Must have at least ${shortest} characters.`;
    if (longest !== undefined && size > Number(longest)) return `Must have at most ${longest} characters.`;
    return "";
  }

  function tell(field, text) {
    const around = field.closest(".field");
    if (!around) return;
    all(".field-error", around).forEach((line) => line.remove());
    around.classList.toggle("has-error", Boolean(text));
    if (!text) {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
      return;
    }
    const line = document.createElement("p");
    line.className = "field-error";
    line.id = `${field.id}-error`;
    line.textContent = text;
    around.append(line);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", line.id);
    const where = text.match(/line (\d+), column (\d+)/);
    if (where && field.tagName === "TEXTAREA") line.append(" ", goes(field, Number(where[1]), Number(where[2])));
  }

  // Leads to a fault in raw JSON.
  function goes(field, line, column) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small-button quiet";
    button.textContent = "Go there";
    button.addEventListener("click", () => {
      const start = field.value.split("\n").slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0) + column - 1;
      field.focus();
      field.setSelectionRange(start, start + 1);
    });
    return button;
  }

  const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

  // What the server found stands in #changes; each line that names a field goes there.
  function sort() {
    const lines = all("#changes [data-fault]");
    for (const field of all("#editor [name]")) {
      const line = lines.find((one) => one.dataset.fault === field.name);
      if (line) {
        tell(field, sentence(line.textContent));
        line.hidden = true;
      } else if (field.dataset.type || field.name === "output") {
        tell(field, field.dataset.type ? fault(field) : "");
      }
    }
    const list = $("#changes .faults");
    if (list && !all("li:not([hidden])", list).length) list.hidden = true;
  }

  document.addEventListener("input", (event) => {
    const field = event.target;
    if (field.id === "find-label") offer(field);
    if (field.form !== form() || !field.dataset?.type || field.id === "find-label") return;
    tell(field, fault(field));
  });

  /* --- entries that come and go ------------------------------------------------------------------------------ */

  let wish = "";
  let keyed = null; // the object that gets a key, or another name for one, and that name

  // A step of a field's name, as the server writes it.
  const escaped = (key) => key.replace(/[.%\x00-\x1f\x7f]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);

  document.addEventListener("htmx:configRequest", (event) => {
    if (!event.detail.path.endsWith("/shape")) return;
    wish = event.detail.elt.value || "";
    const [verb, name] = [wish.split(" ")[0], wish.slice(wish.indexOf(" ") + 1)];
    if (verb === "new") keyed = [name, named(`new.${name}`).value];
    else if (verb === "rename") keyed = [name.slice(0, name.lastIndexOf(".")), named(`name.${name}`).value];
    else keyed = null;
  });

  // Enter in the name of a key does what the button beside it does.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.isComposing || !event.target.matches?.(".free-keys input")) return;
    event.preventDefault();
    $("button[name=do]", event.target.closest(".free-keys")).click();
  });

  function changedShape() {
    const [verb, name] = [wish.split(" ")[0], wish.slice(wish.indexOf(" ") + 1)];
    wish = "";
    const groups = all("[data-group]");
    const here = groups.find((group) => group.dataset.group === name);
    const around = groups.filter((group) => name.startsWith(`${group.dataset.group}.`)).pop();
    const refused = $("#editor .free-keys .has-error input");
    if (keyed && refused) {
      refused.focus();
    } else if (keyed) {
      const path = `${keyed[0]}.${escaped(keyed[1].trim())}`;
      const group = groups.find((one) => one.dataset.group === path);
      (named(path) || (group && $("button, summary", group)))?.focus();
    } else if (verb === "add" && here) {
      const last = all(":scope > .editing-fields > *", here).pop() || here;
      ($("input:not([type=hidden]), select, textarea", last) || $("button", last))?.focus();
    } else if (verb === "remove" && around) {
      all("button[name=do]", around).pop()?.focus();
    }
    window.rqReview.typedNow("output");
  }

  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.target.id === "editor") changedShape();
    if (event.target.id === "changes") sort();
  });

  /* --- saved replies: where one was typing last ------------------------------------------------------------------ */

  let lastTyped = null;

  document.addEventListener("focusin", (event) => {
    if (event.target.matches?.("textarea") && event.target.form === form()) lastTyped = event.target;
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-reply]");
    if (!button || !form()) return;
    const field = lastTyped?.isConnected ? lastTyped : named("note");
    field.setRangeText($(`#${button.dataset.reply}`).textContent, field.selectionStart, field.selectionEnd, "end");
    typedIn(field);
    field.focus();
  });

  /* --- what the guidelines say of a reason -------------------------------------------------------------------------- */

  function tellOf(reason, ...places) {
    const line = all("[data-guide]").find((one) => one.dataset.guide === reason);
    for (const place of places.map((name) => $(name)).filter(Boolean)) {
      place.replaceChildren(...(line ? line.cloneNode(true).childNodes : []));
    }
  }

  const chosenReason = () => tellOf(form() && named("reason")?.value, "#guide");

  document.addEventListener("change", (event) => { if (event.target.name === "reason") chosenReason(); });
  document.addEventListener("focusin", (event) => {
    const button = event.target.closest?.("[data-choose=reason]");
    if (button) tellOf(button.dataset.value, "#why-guide");
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-choose=reason]");
    if (button) tellOf(button.dataset.value, "#guide", "#why-guide");
    const link = event.target.closest?.('a[href^="#guideline-"]');
    const place = link && $(link.hash);
    if (!place) return;
    // Without a step in the history: going back must not fetch the page anew under what is typed.
    event.preventDefault();
    place.closest("details").open = true;
    place.tabIndex = -1;
    place.focus({ preventScroll: true });
    place.scrollIntoView({ block: "center" });
  });
  document.addEventListener("htmx:afterSwap", chosenReason);
  chosenReason();

  /* --- a time of the reader's own day ----------------------------------------------------------------------------- */

  function zones() {
    for (const field of all("[data-local]")) {
      const note = $("[data-zone]", field.closest(".field"));
      note.textContent = `(${Intl.DateTimeFormat().resolvedOptions().timeZone.replaceAll("_", " ")})`;
      const soon = new Date(Date.now() - new Date().getTimezoneOffset() * 60000);
      field.min = soon.toISOString().slice(0, 16);
    }
  }

  document.addEventListener("input", (event) => {
    if (!event.target.matches?.("[data-local]")) return;
    const at = new Date(event.target.value);
    event.target.form.elements.zone.value = Number.isNaN(at.getTime()) ? "" : String(at.getTimezoneOffset());
  });

  document.addEventListener("htmx:afterSwap", zones);
  zones();
})();
