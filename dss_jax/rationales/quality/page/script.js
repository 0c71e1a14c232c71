"use strict";

// What the page on rationales adds to browser.js.
const report = data.report;
const KIND_NAMES = {
  failed: "with a failure",
  disagrees: "vote is not gold",
  fine: "nothing amiss",
};

const statusClass = (status) =>
  status === "ok" ? "good" : status === "disagrees_with_gold" ? "warn" : "bad";

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------- numbers

function drawTiles() {
  const tile = (name, value, note) =>
    byId("tiles").append(
      element("div", { class: "tile" },
        element("div", { class: "name" }, name),
        element("div", { class: "value" }, value),
        element("div", { class: "note" }, note)));
  const shareTile = (name, share, of) => {
    if (share.of) tile(name, percent(share.count, share.of), `${count(share.count)} of ${count(share.of)} ${of}`);
  };
  tile("Records", count(report.records),
    report.problems ? `${count(report.problems)} more lines are none` : `${count(report.with_gold)} with a gold label`);
  shareTile("Ready to train on", { count: report.with_rationale, of: report.records }, "records have a rationale");
  shareTile("Parse rate", report.parse_rate, "completions name a label");
  shareTile("Usable labels", report.usable, "completions");
  shareTile("Agreement with gold", report.agreement, "usable labels");
  if (report.unanimous.of) shareTile("Vote is gold", report.voted_agreement, "records with votes");
  shareTile("All votes alike", report.unanimous, "records with several");
  const tokens = report.prompt_tokens + report.completion_tokens;
  if (tokens) tile("Tokens", compact(tokens), `${compact(report.prompt_tokens)} in, ${compact(report.completion_tokens)} out`);
  if (report.cost !== null) tile("Cost", report.cost.toLocaleString("en-US", { maximumFractionDigits: 4 }), "in the price table's currency");
}

const compact = (number) =>
  number < 10000 ? count(number)
    : number.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 3 });

function card(title, size, ...children) {
  const made = element("section", { class: size }, element("h2", {}, title), ...children);
  byId("charts").append(made);
}

// Bars are as long as their share of the greatest; of `wholes`, if they are given.
function bars(counts, classOf, onClick, wholes = null) {
  const entries = Object.entries(counts);
  const total = entries.reduce((sum, [, number]) => sum + number, 0);
  const greatest = Math.max(1, ...entries.map(([, number]) => number));
  const list = element("div", { class: "bars" });
  for (const [name, number] of entries) {
    const most = wholes ? Math.max(1, wholes[name]) : greatest;
    const width = number ? Math.max(0.6, (100 * number) / most) : 0;
    const chart = svg("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "track", width: 100, height: 12 }),
      svg("rect", { class: `fill ${classOf(name)}`, width, height: 12 }));
    const row = element(onClick ? "button" : "div", onClick ? { type: "button" } : {},
      element("span", { class: "name" }, ...breakable(name || "(none)")), chart,
      element("span", { class: "number" }, `${count(number)} · ${percent(number, wholes ? wholes[name] : total)}`));
    if (onClick) row.addEventListener("click", () => onClick(name));
    list.append(row);
  }
  return list;
}

// Lines may break after the underscores of a status.
const breakable = (name) =>
  name.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);

function histogram(bins, describe, median, unit) {
  const width = 340, height = 130, bottom = 20, top = 14;
  const most = Math.max(1, ...bins.map((bin) => bin[2]));
  const step = width / bins.length;
  const chart = svg("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram, ${unit}` });
  bins.forEach((bin, i) => {
    const tall = ((height - bottom - top) * bin[2]) / most;
    const shown = bin[2] ? Math.max(tall, 1.5) : 0;
    const title = svg("title");
    title.textContent = describe(bin);
    chart.append(svg("rect", { class: "fill", x: i * step + 0.75, y: height - bottom - shown, width: Math.max(step - 1.5, 1), height: shown, rx: 1 }, title));
  });
  chart.append(svg("line", { x1: 0, x2: width, y1: height - bottom, y2: height - bottom }));
  const label = (x, text, anchor, y = height - 6) => {
    const made = svg("text", { x, y, "text-anchor": anchor });
    made.textContent = text;
    chart.append(made);
  };
  label(0, String(bins[0][0]), "start");
  label(width, String(bins[bins.length - 1][1]), "end");
  if (median !== null) {
    const span = bins[bins.length - 1][0] + (bins[0][1] - bins[0][0] + 1) - bins[0][0];
    const x = Math.min(width, ((median + 0.5 - bins[0][0]) / span) * width);
    chart.append(svg("line", { class: "median", x1: x, x2: x, y1: top, y2: height - bottom }));
    label(x, `median ${median}`, x < 50 ? "start" : x > width - 50 ? "end" : "middle", 10);
  } else label(width / 2, unit, "middle");
  return chart;
}

function drawCharts() {
  if (report.teachers.length) card("Teachers", "wide", element("div", { class: "scroll" }, teacherTable()));
  const repeated = { inputs: report.duplicate_inputs, requests: report.duplicate_requests, rationales: report.duplicate_rationales };
  card("Repetitions", "", bars(repeated, () => "warn", null,
    { inputs: report.records, requests: report.rationales, rationales: report.rationales }),
    element("p", { class: "hint quiet" }, "Those that came before, in this record or an earlier one."));
  const histograms = [...marginChart(), ...lengthCharts()];
  if (Object.keys(report.statuses).length) {
    const leftOut = Object.keys(report.left_out).length
      ? [element("h3", {}, "Left out of the records"), bars(report.left_out, () => "warn", null)] : [];
    // Three columns: so that no hole is left beside or below.
    const size = { 1: "wide", 3: "full", 4: "tall" }[histograms.length] || "";
    card("What became of answers", size,
      bars(report.statuses, statusClass, (status) => filterBy("status", status)),
      element("p", { class: "hint quiet" }, "Choose one to see its records below."), ...leftOut);
  }
  for (const [title, ...parts] of histograms) card(title, "", ...parts);
}

function marginChart() {
  if (!report.unanimous.of) return [];
  const tenth = 1 / report.margins.length;
  const bins = report.margins.map((number, i) => [(i * tenth).toFixed(1), ((i + 1) * tenth).toFixed(1), number]);
  return [["Vote margin",
    histogram(bins, ([from, to, number]) => `${from} to ${to}: ${count(number)} records`, null, "margin"),
    element("p", { class: "hint quiet" }, "Share of the votes for the first label less that for the second; 1 where all agree.")]];
}

function lengthCharts() {
  const titles = { input: "Length of inputs, in words", rationale: "Length of rationales, in words", label: "Length of gold labels, in words" };
  return Object.entries(report.lengths)
    // Labels of a few words have no lengths to speak of.
    .filter(([name, found]) => found.bins.length > (name === "label" ? 4 : 1))
    .map(([name, found]) => [titles[name],
      histogram(found.bins, ([first, last, number]) => `${first === last ? first : `${first} to ${last}`} words: ${count(number)}`, found.p50, "words"),
      element("p", { class: "hint quiet" }, `mean ${found.mean} · 95 % have at most ${count(found.p95)} · longest ${count(found.max)}`)]);
}

function teacherTable() {
  const head = ["Teacher", "Answers", "Parsed", "Usable", "Agree with gold", "Rationalised", "Tokens in", "Tokens out", "Cost"];
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))));
  const body = element("tbody");
  for (const teacher of report.teachers) {
    const models = teacher.models.filter((model) => model !== teacher.name).join(", ");
    const cells = [
      count(teacher.answers), percent(teacher.parsed.count, teacher.parsed.of),
      percent(teacher.usable.count, teacher.usable.of),
      percent(teacher.agreement.count, teacher.agreement.of), count(teacher.rationalised),
      count(teacher.prompt_tokens), count(teacher.completion_tokens),
      teacher.cost === null ? "–" : teacher.cost.toLocaleString("en-US", { maximumFractionDigits: 4 }),
    ];
    body.append(element("tr", {},
      element("td", {}, teacher.name || "(unnamed)", models ? element("div", { class: "quiet" }, models) : null),
      ...cells.map((cell) => element("td", {}, cell))));
  }
  table.append(body);
  return table;
}

// ---------------------------------------------------------------- records

const agreementOf = (record) =>
  record.agrees === true ? "agrees" : record.agrees === false ? "disagrees" : "unknown";

function filters() {
  const each = (take) => records.flatMap((record) => [...new Set(take(record))]);
  const goldOf = (record) => (record.label === null ? "none" : `= ${record.label}`);
  return {
    kind: {
      name: "Outcome",
      options: valueOptions(records.map((record) => record.kind), (kind) => KIND_NAMES[kind]),
      matches: (record, wanted) => record.kind === wanted,
    },
    status: {
      name: "Status",
      keep: true,
      options: valueOptions(each((record) => record.rationales.map((r) => r.status))),
      matches: (record, wanted) => record.rationales.some((r) => r.status === wanted),
    },
    agreement: {
      name: "Vote and gold",
      options: valueOptions(records.map(agreementOf), (value) =>
        ({ agrees: "agree", disagrees: "differ", unknown: "no vote or no gold" })[value]),
      matches: (record, wanted) => agreementOf(record) === wanted,
    },
    teacher: {
      name: "Teacher",
      options: valueOptions(each((record) => record.rationales.map((r) => r.source))),
      matches: (record, wanted) => record.rationales.some((r) => r.source === wanted),
    },
    label: {
      name: "Gold label",
      options: valueOptions(records.map(goldOf), (value) =>
        (value === "none" ? "no gold label" : value.slice(2))),
      matches: (record, wanted) => goldOf(record) === wanted,
    },
  };
}

function noteOf(record) {
  const failing = record.rationales.find((each) => each.status !== "ok");
  return failing ? failing.status
    : record.kind === "disagrees" ? "vote ≠ gold"
      : record.kind === "failed" ? "no rationale" : "";
}

function showRationale(each) {
  const head = element("div", { class: "head" },
    element("span", { class: `chip ${statusClass(each.status)}` }, each.status),
    each.agrees === null ? null
      : element("span", { class: `chip ${each.agrees ? "good" : "warn"}` }, each.agrees ? "= gold" : "≠ gold"),
    element("strong", {}, each.source || "(unnamed)"),
    element("span", { class: "weight" }, `weight ${Number(each.weight.toPrecision(3))}`));
  const made = element("div", { class: "rationale" }, head,
    each.text.trim() ? element("p", { class: "text-block" }, marked(each.text)) : element("p", { class: "quiet" }, "no rationale"),
    element("p", { class: "answer" }, element("span", { class: "quiet" }, "Answer: "),
      each.label === null ? element("span", { class: "quiet" }, "none") : element("strong", {}, marked(each.label))));
  if (each.completion !== null)
    made.append(element("details", { open: each.status !== "ok" }, element("summary", {}, "Completion as it came"),
      element("pre", { class: "text-block" }, marked(each.completion))));
  if (each.facts.length)
    made.append(element("details", {}, element("summary", {}, "Where it comes from"), facts(each.facts)));
  return made;
}

function showRecord(record) {
  const pairs = [["Gold label", record.label === null ? element("span", { class: "quiet" }, "none") : record.label]];
  if (record.votes.length)
    pairs.push(["Votes", record.votes.map(([label, share]) => `${label} ${(100 * share).toFixed(0)} %`).join("  ·  ")]);
  return [
    element("div", { class: "record-head" }, element("h3", {}, marked(record.id)),
      record.agrees === null ? null
        : element("span", { class: `chip ${record.agrees ? "good" : "warn"}` }, record.agrees ? "vote = gold" : "vote ≠ gold"),
      record.rationales.length ? null : element("span", { class: "chip bad" }, "no rationale")),
    element("pre", { class: "text-block input-block" }, marked(record.input)),
    facts(pairs),
    ...record.rationales.map(showRationale),
    record.more ? element("p", { class: "quiet" }, `and ${count(record.more)} more rationales`) : null,
    record.meta.length
      ? element("details", {}, element("summary", {}, "More about the record"), facts(record.meta)) : null,
  ];
}

function heldLine() {
  const total = Object.values(data.kinds).reduce((sum, number) => sum + number, 0);
  if (records.length === total) return `All ${count(total)} records are on this page.`;
  const parts = Object.keys(KIND_NAMES).filter((kind) => data.kinds[kind])
    .map((kind) => `${count(data.held[kind])} of ${count(data.kinds[kind])} ${KIND_NAMES[kind]}`);
  return `This page holds ${count(records.length)} of ${count(total)} records: ${parts.join(", ")}.`;
}

drawTiles();
drawCharts();
startBrowser({
  filters: filters(),
  nouns: ["record", "records"],
  note: noteOf,
  show: showRecord,
  texts: (record) => [record.id, record.input, record.label || "",
    ...record.rationales.flatMap((each) => [each.text, each.label || "", each.completion || ""])],
  held: heldLine(),
});
