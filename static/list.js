/* Marking rows of a list by key and by range, and a batch that goes on by itself. Nothing needs it. */
"use strict";

(() => {
  const list = document.querySelector("[data-marks]");
  const boxes = () => [...(list?.querySelectorAll("td.mark input") ?? [])];
  let last = null;

  function told() {
    const count = boxes().filter((box) => box.checked).length;
    for (const place of document.querySelectorAll("[data-marked]")) place.textContent = count || "";
    for (const box of boxes()) box.closest("tr").classList.toggle("marked", box.checked);
  }

  function mark(box, range, checked) {
    const all = boxes();
    const from = range && last ? all.indexOf(last) : all.indexOf(box);
    const to = all.indexOf(box);
    for (const one of all.slice(Math.min(from, to), Math.max(from, to) + 1)) one.checked = checked;
    last = box;
    told();
  }

  document.addEventListener("click", (event) => {
    if (event.target.matches?.("td.mark input")) mark(event.target, event.shiftKey, event.target.checked);
  });

  document.addEventListener("keydown", (event) => {
    const focus = document.activeElement;
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.key.toLowerCase() !== "x") return;
    if (document.querySelector("dialog[open]") || focus.matches("textarea, select, input:not([type=checkbox])")) return;
    const box = focus.closest("tr")?.querySelector("td.mark input") ?? boxes()[0];
    if (!box) return;
    event.preventDefault();
    box.closest("tr").querySelector("[data-row]")?.focus();
    mark(box, event.shiftKey, event.shiftKey || !box.checked);
  });

  document.querySelector("form[data-carry-on]")?.requestSubmit();
  if (list) told();
})();
