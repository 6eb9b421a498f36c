"use strict";
// Sorts and filters the table, builds the image matrix and shows images in full size. Inserts text only, never markup.

const table = document.getElementById("table");
const body = table.tBodies[0];
const find = document.getElementById("find");
const which = document.getElementById("which");
const count = document.getElementById("count");
const dims = [...document.querySelectorAll("select.dim")];

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function json(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

// --- the table --------------------------------------------------------------------------------------------------------

function order(a, b, column, sign) {
  const [left, right] = [a, b].map((row) => row.cells[column].dataset.sort);
  if (left === undefined || right === undefined) return (left === undefined) - (right === undefined); // unknown: last
  const difference = Number(left) - Number(right);
  return sign * (Number.isNaN(difference) ? left.localeCompare(right) : difference);
}

function sort(column) {
  const headings = table.tHead.rows[0].cells;
  const up = headings[column].getAttribute("aria-sort") !== "ascending";
  for (const heading of headings) heading.setAttribute("aria-sort", "none");
  headings[column].setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...[...body.rows].sort((a, b) => order(a, b, column, up ? 1 : -1)));
}

function levels(row) {
  return Object.fromEntries([...row.querySelectorAll("td[data-dim]")].map((cell) => [cell.dataset.dim, cell.dataset.value]));
}

function wanted(row) {
  const kind = which.value;
  const fits = !kind || (kind === "unfinished" ? !row.classList.contains("finished") : row.classList.contains(kind));
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = `${row.textContent} ${row.querySelector("a").title}`.toLowerCase();
  const at = levels(row);
  return fits && words.every((word) => text.includes(word)) && dims.every((dim) => !dim.value || at[dim.dataset.dim] === dim.value);
}

function filter() {
  for (const row of body.rows) row.hidden = !wanted(row);
  const shown = [...body.rows].filter((row) => !row.hidden).length;
  count.textContent = `${shown} of ${body.rows.length} runs`;
  if (matrix) build();
}

function prepareTable() {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = element("button", { type: "button", textContent: heading.textContent });
    button.addEventListener("click", () => sort(column));
    heading.replaceChildren(button);
  });
  for (const dim of dims) {
    const values = new Set([...body.rows].map((row) => levels(row)[dim.dataset.dim]).filter(Boolean));
    dim.append(...[...values].sort((a, b) => a.localeCompare(b, "en", { numeric: true })).map((value) => element("option", { value, textContent: value })));
    dim.parentElement.hidden = values.size < 2;
    dim.addEventListener("change", filter);
  }
  document.getElementById("filter").hidden = false;
  document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("wide").addEventListener("change", (event) => table.classList.toggle("narrow", !event.target.checked));
  find.addEventListener("input", filter);
  which.addEventListener("change", filter);
}

// --- the image matrix -------------------------------------------------------------------------------------------------

const matrix = document.getElementById("matrix");
const data = json("matrix-rows");
const read = new Map();
const MANY = 1500; // images: with more, the matrix begins with one prompt

function imagesOf(prompt) {
  if (!read.has(prompt)) read.set(prompt, json(`images-${prompt}`));
  return read.get(prompt);
}

function control(name) {
  return document.getElementById(name);
}

function tile(row, prompt, seed, found) {
  if (!found) return element("td", { className: "gone", textContent: "none" });
  const [file, small, value, word] = found;
  const good = value !== null && value > -1;
  const alt = `${row.configuration}, training seed ${row.seed}, image seed ${seed}: ${good ? `similarity ${word}` : word}`;
  const href = `../${encodeURIComponent(row.folder)}/${file.split("/").map(encodeURIComponent).join("/")}`;
  const link = element("a", { href, target: "_blank", rel: "noopener" });
  link.append(small ? element("img", { src: `data:image/webp;base64,${small}`, alt, decoding: "async" }) : element("span", { className: "gone", textContent: "unreadable" }));
  link.append(element("span", { className: good ? "" : "bad", textContent: word }));
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show({ row, prompt, seed, word, href, alt });
  });
  return element("td", {}, link);
}

function heading(row) {
  const seed = row.seed ? `training seed ${row.seed}` : "";
  const lines = [seed, row.variant].filter(Boolean).join("; ");
  return element("th", { scope: "row" }, element("strong", { textContent: row.configuration }), element("span", { className: "faint", textContent: lines }));
}

function shownRows() {
  const hidden = new Set([...body.rows].filter((row) => row.hidden).map((row) => row.dataset.run));
  const seed = control("seed").value;
  const every = control("variants").checked;
  return data.rows.filter((row) => !hidden.has(row.run) && (row.baseline || !seed || row.seed === seed) && (every || row.selected));
}

function build() {
  const prompt = control("prompt").value;
  const columns = data.columns.filter(([number]) => !prompt || String(number) === prompt);
  const rows = shownRows();
  const worst = control("order").value === "worst";
  const at = (row, [number, seed]) => imagesOf(number)[row.id]?.[seed];
  const lines = rows.map((row) => {
    const cells = worst ? columns.filter((cell) => at(row, cell)).sort((a, b) => (at(row, a)[2] ?? 9) - (at(row, b)[2] ?? 9)).slice(0, 12) : columns;
    return element("tr", {}, heading(row), ...cells.map((cell) => tile(row, cell[0], cell[1], at(row, cell))));
  });
  const made = element("table", {}, worst ? "" : head(columns), element("tbody", {}, ...lines));
  matrix.replaceChildren(rows.length ? made : element("p", { className: "absent", textContent: "The runs shown have no images." }));
}

function head(columns) {
  const reference = matrix.dataset.reference;
  const corner = element("td", { rowSpan: 2 });
  if (reference) corner.append(element("img", { src: `data:image/webp;base64,${reference}`, alt: "a reference photo", className: "reference" }), element("span", { className: "faint", textContent: "reference photo" }));
  const prompts = [...new Set(columns.map(([number]) => number))].map((number) => {
    const seeds = columns.filter(([other]) => other === number).length;
    return element("th", { scope: "colgroup", colSpan: seeds, className: "prompt" }, element("span", { textContent: data.prompts[number], title: data.prompts[number] }));
  });
  const seeds = columns.map(([, seed]) => element("th", { scope: "col", className: "faint", textContent: `seed ${seed}` }));
  return element("thead", {}, element("tr", {}, corner, ...prompts), element("tr", {}, ...seeds));
}

function prepareMatrix() {
  const seeds = [...new Set(data.rows.map((row) => row.seed).filter(Boolean))];
  control("seed").append(...seeds.map((seed) => element("option", { value: seed, textContent: seed })), element("option", { value: "", textContent: "all" }));
  control("seed").parentElement.hidden = seeds.length < 2;
  control("variants-label").hidden = data.rows.every((row) => row.selected);
  control("choose").hidden = false;
  control("choose").addEventListener("change", build);
  control("choose").addEventListener("submit", (event) => event.preventDefault());
  const many = shownRows().length * data.columns.length > MANY;
  if (many) control("prompt").value = String(data.columns[0][0]);
}

// --- an image in full size --------------------------------------------------------------------------------------------

const full = document.getElementById("full");

function show({ row, prompt, seed, word, href, alt }) {
  const image = full.querySelector("img");
  Object.assign(image, { src: href, alt });
  full.querySelector("a").href = href;
  const facts = { configuration: row.configuration, "training seed": row.seed, "checkpoint and strength": row.variant, prompt: data.prompts[prompt], "image seed": seed, similarity: word, run: row.name };
  const lines = Object.entries(facts).filter(([, value]) => value !== "").map(([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: String(value) })));
  full.querySelector("dl").replaceChildren(...lines);
  full.showModal();
}

full.addEventListener("click", (event) => {
  if (event.target === full) full.close();
});

// --- figures as files -------------------------------------------------------------------------------------------------

function download(figure) {
  const svg = figure.querySelector("svg").cloneNode(true);
  const style = getComputedStyle(document.documentElement);
  const [, , width, height] = svg.getAttribute("viewBox").split(" ");
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  const text = new XMLSerializer().serializeToString(svg).replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  const name = figure.querySelector("h3").textContent.replace(/\W+/g, "-").toLowerCase();
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "image/svg+xml" })), download: `${name}.svg` });
  link.click();
  URL.revokeObjectURL(link.href);
}

function prepareFigures() {
  for (const figure of document.querySelectorAll("#figures figure")) {
    const button = element("button", { type: "button", className: "save", textContent: "SVG" });
    button.setAttribute("aria-label", `Save "${figure.querySelector("h3").textContent}" as SVG`);
    button.addEventListener("click", () => download(figure));
    figure.querySelector("h3").after(button);
  }
}

// --- a link to a run opens it -----------------------------------------------------------------------------------------

function openTarget() {
  const target = location.hash.startsWith("#run-") && document.getElementById(location.hash.slice(1));
  if (!target) return;
  target.open = true;
  target.scrollIntoView();
  target.firstElementChild.focus({ preventScroll: true });
}

prepareTable();
if (matrix) prepareMatrix();
prepareFigures();
filter();
addEventListener("hashchange", openTarget);
openTarget();
