"use strict";
// Sorts and filters the table; builds a contact sheet when it is opened, in the order of the table. Inserts text only.

const table = document.getElementById("table");
const body = table.tBodies[0];
const find = document.getElementById("find");
const which = document.getElementById("which");
const count = document.getElementById("count");

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
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
  refresh();
}

function wanted(row) {
  const kind = which.value;
  const fits = !kind || (kind === "unfinished" ? !row.classList.contains("finished") : row.classList.contains(kind));
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  return fits && words.every((word) => row.textContent.toLowerCase().includes(word));
}

function filter() {
  for (const row of body.rows) row.hidden = !wanted(row);
  const shown = [...body.rows].filter((row) => !row.hidden).length;
  count.textContent = `${shown} of ${body.rows.length} runs`;
  refresh();
}

function prepareTable() {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = element("button", { type: "button", textContent: heading.textContent });
    button.addEventListener("click", () => sort(column));
    heading.replaceChildren(button);
  });
  document.getElementById("filter").hidden = false;
  document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
  find.addEventListener("input", filter);
  which.addEventListener("change", filter);
  filter();
}

// --- contact sheets ---------------------------------------------------------------------------------------------------

const read = new Map();

function contents(number) {
  if (!read.has(number)) read.set(number, JSON.parse(document.getElementById(`sheet-${number}`).textContent));
  return read.get(number);
}

function tile(folder, name, seed, prompt, picture) {
  if (!picture) return element("li", {}, element("span", { className: "gone", textContent: "none" }), `seed ${seed}`);
  const [file, small, word] = picture;
  const good = !Number.isNaN(Number(word));
  const alt = `${name}, seed ${seed}: ${good ? `similarity ${word}` : word}`;
  const link = element("a", { href: folder + file.split("/").map(encodeURIComponent).join("/"), target: "_blank", rel: "noopener" });
  link.append(small ? element("img", { src: `data:image/webp;base64,${small}`, alt, decoding: "async" }) : element("span", { className: "gone", textContent: "unreadable" }));
  link.append(element("span", { className: good ? "" : "bad", textContent: word }));
  return element("li", { title: `${prompt}\nseed ${seed}` }, link);
}

function build(sheet) {
  const { seeds, runs } = contents(sheet.dataset.sheet);
  const prompt = sheet.firstElementChild.textContent.trim();
  const rows = [...body.rows].filter((row) => !row.hidden && runs[row.dataset.run]).map((row) => {
    const name = row.querySelector(".unseen").textContent;
    const marks = [...row.cells[1].querySelectorAll(".degraded, .failed, .copying, .baseline")].map((mark) => mark.cloneNode(true));
    const folder = document.getElementById(`run-${row.dataset.run}`).dataset.folder;
    const tiles = seeds.map((seed) => tile(folder, name, seed, prompt, runs[row.dataset.run][seed]));
    return element("div", { className: "row" }, element("h3", {}, name, ...marks), element("ul", {}, ...tiles));
  });
  sheet.lastElementChild.classList.toggle("few", seeds.length <= 4);
  const legend = element("p", { className: "faint legend", textContent: `Seeds ${seeds.join(", ")}, from left to right; the similarity is below each image.` });
  sheet.lastElementChild.replaceChildren(...(rows.length ? [legend, ...rows] : [element("p", { className: "absent", textContent: "The runs shown have no images." })]));
}

function refresh() {
  for (const sheet of document.querySelectorAll("details.sheet[open]")) build(sheet);
}

function prepareSheets() {
  const sheets = document.querySelectorAll("details.sheet");
  for (const sheet of sheets) sheet.addEventListener("toggle", () => (sheet.open ? build(sheet) : sheet.lastElementChild.replaceChildren()));
  if (sheets.length) sheets[0].open = true;
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
prepareSheets();
addEventListener("hashchange", openTarget);
openTarget();
