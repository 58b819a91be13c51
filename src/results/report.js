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

  // Filtering: what is about another dataset, method, protocol or backbone is hidden.
  const form = document.querySelector(".filters");
  if (!form) return;
  const selects = all("select", form);
  const apply = () => {
    const chosen = selects.filter((select) => select.value);
    const other = (element) => chosen.some(({ name, value }) =>
      element.dataset[name] !== undefined && element.dataset[name] !== value);
    const elements = "[data-dataset], [data-method], [data-protocol], [data-backbone]";
    all(elements).forEach((element) => { element.hidden = other(element); });
    for (const board of all(".board")) {
      const columns = all("thead th[data-dataset]", board);
      const empty = columns.some((each) => each.dataset.dataset) && columns.every((each) => each.hidden);
      board.hidden ||= empty || all("tbody tr", board).every((row) => row.hidden);
    }
    const rows = all(".board:not([hidden]) tbody tr:not([hidden])")
      .filter((row) => !row.closest("section[hidden]")).length;
    form.querySelector("[role=status]").textContent =
      chosen.length ? `${rows} row${rows === 1 ? "" : "s"} of the accuracies shown` : "";
  };
  form.addEventListener("change", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.hidden = false;
  apply();
})();
