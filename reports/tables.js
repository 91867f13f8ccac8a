"use strict";
// Tables sort by a click on a column's name and filter by words that a row must hold. Nothing is fetched.
for (const box of document.querySelectorAll("[data-table]")) {
  const body = box.querySelector("tbody");
  const rows = Array.from(body.rows);
  const shown = box.querySelector(".shown");
  const heads = Array.from(box.querySelectorAll("th"));

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column];
      const compare = (a, b) => {
        const x = key(a).dataset.v, y = key(b).dataset.v;
        if (x !== undefined && y !== undefined) {
          if (x === "nan" || y === "nan") return (x === "nan") - (y === "nan");
          return Number(x) - Number(y);
        }
        if ((x === undefined) !== (y === undefined)) return x === undefined ? 1 : -1;
        return key(a).textContent.localeCompare(key(b).textContent, "en", { numeric: true });
      };
      rows.sort((a, b) => (down ? -compare(a, b) : compare(a, b)));
      body.append(...rows);
    });
  });

  const field = box.querySelector("input");
  if (!field) continue;
  const whole = shown.textContent;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      left += row.hidden ? 0 : 1;
    }
    shown.textContent = words.length ? `${left} of ${whole}` : whole;
  });
}
