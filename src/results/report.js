// Filters and sorts the tables of the page; without it, everything is there to be read.
(() => {
  "use strict";
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Sorting: a click on a heading, or Enter on it, sorts its table by that column.
  const number = /^[<(+]*\s*[-−+]?\d[\d,]*(\.\d+)?(?![\w:/-])/;
  const valueOf = (row, column) => {
    const text = row.cells[column] ? row.cells[column].textContent.trim() : "";
    const found = number.exec(text);
    const digits = found && found[0].replace(/[<(+,\s]/g, "").replace("−", "-");
    return { text, number: found ? Number(digits) : null };
  };
  const compare = (one, other) => {
    if (!one.text || !other.text) return 0;
    if (one.number !== null && other.number !== null) return one.number - other.number;
    return one.text.localeCompare(other.text, undefined, { numeric: true });
  };
  const sort = (table, heading) => {
    const body = table.tBodies[0];
    const column = heading.cellIndex;
    const rows = table.inOrder.map((row) => ({ row, value: valueOf(row, column) }));
    const numeric = rows.some(({ value }) => value.number !== null);
    const states = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
    const next = states[states.indexOf(heading.getAttribute("aria-sort")) + 1];
    all("th[aria-sort]", table).forEach((each) => each.removeAttribute("aria-sort"));
    if (next) {
      const sign = next === "ascending" ? 1 : -1;
      heading.setAttribute("aria-sort", next);
      rows.sort((one, other) =>
        !one.value.text - !other.value.text || sign * compare(one.value, other.value));
    }
    body.append(...rows.map(({ row }) => row));
  };
  for (const table of all("table")) {
    if (!table.tHead || table.tBodies[0].rows.length < 2) continue;
    table.inOrder = [...table.tBodies[0].rows];
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sort(table, heading));
      heading.append(button);
    }
  }

  // Filtering: what is about other datasets, methods, protocols or backbones is hidden.
  const form = document.querySelector(".filters");
  if (!form) return;
  const selects = () => all("select", form);
  const several = ["dataset", "method"];
  let chosen = new Map();
  // A pair of methods is about both; of a single method that is chosen, all pairs are shown.
  const other = ({ dataset }) => [...chosen].some(([name, values]) => {
    const own = [dataset[name], name === "method" ? dataset.other : undefined]
      .filter((value) => value !== undefined);
    const found = own.filter((value) => values.has(value)).length;
    return found < Math.min(own.length, values.size);
  });
  const gone = (elements) => elements.length > 0 && elements.every((each) => each.hidden);
  const count = (selector, what) => {
    const rows = all(selector).filter((row) => !row.closest("[hidden]")).length;
    return `${rows} ${what}${rows === 1 ? "" : "s"}`;
  };
  const apply = () => {
    chosen = new Map();
    for (const { name, value } of selects()) {
      if (value) chosen.set(name, (chosen.get(name) || new Set()).add(value));
    }
    const elements = "[data-dataset], [data-method], [data-protocol], [data-backbone]";
    all(elements).forEach((element) => { element.hidden = other(element); });
    for (const board of all(".board")) {
      const columns = all("thead th[data-dataset]", board);
      board.hidden ||= gone(columns) || gone(all("tbody tr", board));
    }
    for (const one of all(".compared")) one.hidden ||= gone(all("details:not(.numbers) tbody tr", one));
    for (const one of all(".every")) one.closest("details").hidden ||= gone(all("tbody tr", one));
    const parts = ".board, .compared, .run, :scope > .figures > figure, :scope > details";
    for (const section of all("main > section")) {
      section.hidden = other(section) || gone(all(parts, section));
    }
    for (const link of all("nav a")) link.hidden = document.querySelector(link.hash).hidden;
    const pairs = document.querySelector(".compared")
      ? ` and ${count(".compared details:not(.numbers) tbody tr", "pair")}` : "";
    form.querySelector("[role=status]").textContent = chosen.size
      ? `${count("section[data-protocol] .board tbody tr", "row")} of the accuracies${pairs} shown` : "";
  };
  // After a choice, one more of its kind can be made.
  const another = (select) => {
    const same = selects().filter((each) => each.name === select.name);
    const left = select.options.length - 1 - same.length;
    if (!several.includes(select.name) || same.at(-1) !== select || !select.value || left < 1) return;
    const next = select.cloneNode(true);
    next.removeAttribute("id");
    next.setAttribute("aria-label", `and ${select.name}`);
    next.options[0].textContent = "and ...";
    next.value = "";
    select.after(next);
  };
  form.addEventListener("change", (event) => { another(event.target); apply(); });
  form.addEventListener("reset", () => setTimeout(() => {
    all("select[aria-label]", form).forEach((each) => each.remove());
    apply();
  }));
  form.hidden = false;
  apply();
})();
