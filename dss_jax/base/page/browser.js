"use strict";

// What pages share: elements, and a browser of records with filters.
// Everything shown is set as text: nothing in the data can become markup.
const data = JSON.parse(document.getElementById("data").textContent);
const records = data.records;

const byId = (id) => document.getElementById(id);
const count = (number) => Number(number).toLocaleString("en-US");
const percent = (part, whole) =>
  whole ? `${((100 * part) / whole).toFixed(part === whole ? 0 : 1)} %` : "–";

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("aria-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// ---------------------------------------------------------------- browser

// What a page says of its records; see startBrowser.
let page = null;
// What is searched, made once.
let haystacks = [];
let matching = [];
let current = -1;

function tally(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
}

// Options for each value there is, the most frequent first.
function valueOptions(values, name = (value) => value) {
  const shorten = (text) => (text.length > 40 ? `${text.slice(0, 40)}…` : text);
  return tally(values).slice(0, 200)
    .map(([value, number]) => [value, `${shorten(name(value)) || "(none)"} (${count(number)})`]);
}

function addFilter(id, { name, options, keep = false }) {
  const select = element("select", { id }, new Option("all", ""),
    ...options.map(([value, text]) => new Option(text, value)));
  if (options.length < 2 && !keep) select.disabled = options.length === 0;
  byId("clear").before(element("label", {}, name, select));
  select.addEventListener("change", applyFilters);
}

const searchText = () => byId("search").value.trim().toLowerCase();

function applyFilters() {
  const wanted = searchText();
  const chosen = Object.entries(page.filters)
    .map(([id, filter]) => [filter.matches, byId(id).value]).filter(([, value]) => value !== "");
  matching = [];
  records.forEach((record, i) => {
    if (wanted && !haystacks[i].includes(wanted)) return;
    if (chosen.every(([matches, value]) => matches(record, value))) matching.push(record);
  });
  drawList();
  show(matching.length ? 0 : -1);
}

function filterBy(id, value) {
  clearFilters();
  const select = byId(id);
  select.value = value;
  if (select.selectedIndex < 0) select.value = "";
  applyFilters();
  byId("browser").scrollIntoView({ behavior: "smooth", block: "start" });
}

function clearFilters() {
  byId("search").value = "";
  for (const id of Object.keys(page.filters)) byId(id).value = "";
}

function drawList() {
  const list = byId("list");
  list.replaceChildren(...matching.map((record, i) => {
    const button = element("button", { type: "button" },
      element("span", { class: "line" }, element("span", {}, record.id), element("span", {}, page.note(record))),
      element("span", { class: "text" }, record.input));
    button.addEventListener("click", () => show(i, true));
    return element("li", {}, button);
  }));
}

function marked(text) {
  const wanted = searchText();
  const made = document.createDocumentFragment();
  const lower = text.toLowerCase();
  // Lower case may change the length of a text: then nothing is marked.
  if (!wanted || lower.length !== text.length) {
    made.append(text);
    return made;
  }
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
    made.append(text.slice(from, at), element("mark", {}, text.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  made.append(text.slice(from));
  return made;
}

function facts(pairs) {
  return element("dl", { class: "facts" }, ...pairs.flatMap(([name, value]) => [
    element("dt", {}, name), element("dd", {}, typeof value === "string" ? marked(value) : value)]));
}

function show(position, fromList = false) {
  current = position;
  const article = byId("record");
  const total = matching.length;
  const [one, several] = page.nouns;
  const noun = one[0].toUpperCase() + one.slice(1);
  byId("count").textContent = total
    ? `${noun} ${count(position + 1)} of ${count(total)}${total === records.length ? "" : ` matching (${count(records.length)} on this page)`}`
    : `No ${one} of the ${count(records.length)} on this page matches.`;
  byId("previous").disabled = position <= 0;
  byId("next").disabled = position >= total - 1;
  const buttons = byId("list").querySelectorAll("button");
  buttons.forEach((button, i) => button.setAttribute("aria-current", String(i === position)));
  if (position < 0) {
    article.replaceChildren(element("p", { class: "none" }, records.length ? "Nothing to show." : `This page holds no ${several}.`));
    return;
  }
  if (!fromList) keepInView(byId("list"), buttons[position]);
  article.replaceChildren(...page.show(matching[position]).filter((child) => child !== null));
}

// Scrolls the list only, never the page.
function keepInView(list, button) {
  const above = button.offsetTop - list.offsetTop - list.scrollTop;
  if (above < 0) list.scrollTop += above;
  const below = above + button.offsetHeight - list.clientHeight;
  if (below > 0) list.scrollTop += below;
}

function step(by) {
  const next = Math.min(Math.max(current + by, 0), matching.length - 1);
  if (next !== current) show(next);
}

// Fills the browser and listens to its filters and keys.
//   filters  id -> {name, options: [[value, text]], matches(record, value)}
//   nouns    what a record is called: one, several
//   note     record -> a few words for its line of the list
//   show     record -> elements; null where there is none
//   texts    record -> texts that are searched
//   held     a line that says which records are here
function startBrowser(described) {
  page = described;
  haystacks = records.map((record) => page.texts(record).join("\n").toLowerCase());
  byId("held").textContent = page.held;
  byId("list").setAttribute("aria-label", `Matching ${page.nouns[1]}`);
  for (const [id, filter] of Object.entries(page.filters)) addFilter(id, filter);
  byId("search").addEventListener("input", applyFilters);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () => { clearFilters(); applyFilters(); });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target instanceof Element && event.target.closest("input, select, .scroll");
    if (event.key === "Escape") {
      clearFilters();
      applyFilters();
      if (typing) typing.blur();
    } else if (typing) return;
    else if (event.key === "/") {
      event.preventDefault();
      byId("search").focus();
    } else if (event.key === "j" || event.key === "ArrowRight") step(1);
    else if (event.key === "k" || event.key === "ArrowLeft") step(-1);
  });
  applyFilters();
}
